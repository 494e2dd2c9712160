// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/memory_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "image/page_runs.h"
#include "kernel/page_size.h"
#include "resource/file_contents/visible_contents.h"
#include "resource/memory/build_id.h"
#include "resource/open_file/common_obstacle.h"
#include "resource/open_file/mapped_files.h"

namespace stasis {
namespace {

using kernel::Vma;
using kernel::VmFlag;

bool is_vdso_area(const Vma& vma) {
  return vma.path == "[vdso]" || vma.path == "[vvar]" || vma.path == "[vvar_vclock]";
}

Obstacle obstacle(HostPid pid, const Vma& vma, std::string why, std::string help = {}) {
  return {
      .code = Errc::kUnsupportedMemory,
      .pid = pid,
      .fd = -1,
      .object = fmt::format("mapping {:x}-{:x} {}", vma.start, vma.end, vma.path.empty() ? "[anonymous]" : vma.path),
      .why = std::move(why),
      .help = std::move(help)};
}

std::optional<Obstacle> find_obstacle(HostPid pid, const Vma& vma) {
  if (vma.kernel_special()) return std::nullopt;
  const bool nameless = !nameless_link(vma).empty();
  if (vma.flags.has(VmFlag::kHugeTlb) && !nameless && vma.path != "/anon_hugepage") {
    return obstacle(pid, vma, "a file of hugetlbfs can't be saved");
  }
  // Named by what they are, not by how their memory is mapped.
  if (vma.path == "/[aio]") {
    return obstacle(pid, vma, "an asynchronous I/O context (io_setup) can't be saved",
                    "let the program do without native AIO: MariaDB and MySQL with innodb_use_native_aio=0, "
                    "nginx with 'aio threads' or off, qemu with aio=threads");
  }
  if (vma.path.starts_with("anon_inode:[io_uring]")) {
    return obstacle(pid, vma, "it is the ring of an io_uring, which can't be saved", std::string(kIoUringHelp));
  }
  if (vma.path.starts_with("anon_inode:[perf_event]")) {
    return obstacle(pid, vma, "it is the buffer of a performance counter, which can't be saved",
                    "close the profiler first");
  }
  if (vma.flags.has(VmFlag::kPfnMap) || vma.flags.has(VmFlag::kIo) || vma.flags.has(VmFlag::kMixedMap)) {
    return obstacle(pid, vma, "it is device memory");
  }
  if (vma.flags.has(VmFlag::kUffdMissing) || vma.flags.has(VmFlag::kUffdMinor)) {
    return obstacle(pid, vma, "the program handles its page faults with userfaultfd");
  }
  if (vma.flags.has(VmFlag::kShadowStack)) return obstacle(pid, vma, "it is a shadow stack");
  if (vma.flags.has(VmFlag::kDroppable)) return std::nullopt;
  if (!vma.file_backed()) {
    if (vma.shared) return obstacle(pid, vma, "shared memory without a file can't be saved");
    return std::nullopt;
  }
  if (nameless) return std::nullopt;  // mapped_file_obstacle() judges it
  if (vma.path.starts_with("anon_inode:") || vma.path.starts_with("/[")) {
    return obstacle(pid, vma, "it belongs to a kernel facility that can't be saved");
  }
  return std::nullopt;
}

std::int64_t mtime_ns(const struct ::stat& st) {
  return std::int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
}

// Collects the mapped files once each and yields their indices.
class FileList {
 public:
  explicit FileList(const kernel::ProcDir& proc, std::vector<MappedFileRecord>& files) : proc_(proc), files_(files) {}

  Result<std::uint32_t> index_of(const std::string& path, std::uint64_t inode, bool writable) {
    const auto key = std::tuple(path, inode, writable);
    if (const auto found = known_.find(key); found != known_.end()) return found->second;
    MappedFileRecord file{.path = path, .writable = writable};
    // The name may lead to a device by now, whose opening has effects: looked at before it is opened.
    const UniqueFd found = STASIS_TRY(open_at(AT_FDCWD, path, O_PATH));
    struct ::stat st{};
    if (::fstat(found.get(), &st) != 0) return Error::from_errno(errno, "stat " + path);
    if (inode && st.st_ino != inode) {
      return Error(Errc::kFileChanged, fmt::format("pid {}: {} is mapped but the path now leads to another file",
                                                   proc_.pid().value(), path));
    }
    file.device = st.st_dev;
    file.inode = st.st_ino;
    file.size = static_cast<std::uint64_t>(st.st_size);
    file.mtime_ns = mtime_ns(st);
    if (S_ISREG(st.st_mode) && !writable) {
      const UniqueFd fd =
          STASIS_TRY(open_at(AT_FDCWD, fmt::format("/proc/self/fd/{}", found.get()), O_RDONLY | O_NONBLOCK));
      file.build_id = read_build_id(fd.get());
    }
    const auto index = static_cast<std::uint32_t>(files_.size());
    files_.push_back(std::move(file));
    known_.emplace(key, index);
    return index;
  }

 private:
  const kernel::ProcDir& proc_;
  std::vector<MappedFileRecord>& files_;
  std::map<std::tuple<std::string, std::uint64_t, bool>, std::uint32_t> known_;
};

std::vector<PageRun> to_image_runs(const std::vector<kernel::PageRun>& runs) {
  std::vector<PageRun> result;
  for (const kernel::PageRun& run : runs) append(result, {.start = run.start, .length = run.size()});
  return result;
}

// The files without a path, once each.
std::uint32_t index_of(OpenInode* inode, std::vector<OpenInode*>& objects) {
  const auto found = std::ranges::find(objects, inode);
  const auto index = static_cast<std::uint32_t>(found - objects.begin());
  if (found == objects.end()) objects.push_back(inode);
  return index;
}

Result<VmaRecord> record_of(const Vma& vma, FileList& files) {
  VmaRecord record{.start = vma.start,
                   .end = vma.end,
                   .prot = static_cast<std::uint32_t>(vma.prot),
                   .shared = vma.shared,
                   .offset = vma.offset,
                   .flags = vma.flags.bits()};
  if (is_vdso_area(vma)) {
    record.backing = VmaBacking::kVdso;
  } else if (vma.kernel_special()) {
    record.backing = VmaBacking::kKernel;
  } else if (vma.file_backed() && nameless_link(vma).empty() && vma.path != "/anon_hugepage") {
    record.backing = VmaBacking::kFile;
    record.file = STASIS_TRY(files.index_of(vma.path, vma.inode, vma.shared && vma.flags.has(VmFlag::kMayWrite)));
  }
  if (record.backing != VmaBacking::kFile) record.name = vma.path;
  if (record.backing == VmaBacking::kAnonymous && vma.flags.has(VmFlag::kHugeTlb)) {
    record.huge_page = vma.kernel_page_size;
  }
  return record;
}

Result<void> add_readable(HostPid pid, const OpenInode& inode, const Vma& vma, std::vector<kernel::PageRun>& pages) {
  const auto view =
      std::ranges::find_if(inode.views, [&](const MappedView& v) { return v.pid == pid && v.start == vma.start; });
  const std::uint64_t size = STASIS_TRY(readable_part(*view));
  if (size != 0) pages.push_back({.start = vma.start, .end = vma.start + size});
  return {};
}

// `shared` gets those that others may have as well: areas that are nobody else's need no look at each page.
Result<void> add_private(const kernel::PageScanner& scanner, const Vma& vma, std::vector<kernel::PageRun>& pages,
                         std::vector<kernel::PageRun>& shared) {
  // Asking once for what lies so close is cheaper than asking twice.
  const std::uint64_t close = 64 * kernel::page_size();
  std::vector<kernel::PageRun> own;
  STASIS_TRY(scanner.private_pages(vma, own));
  const bool alone = vma.mapped_elsewhere == 0 && vma.swap == 0;
  for (std::size_t i = 0; i < own.size() && !alone;) {
    const std::uint64_t start = own[i].start;
    std::uint64_t end = own[i].end;
    for (++i; i < own.size() && own[i].start - end <= close; ++i) end = own[i].end;
    STASIS_TRY(scanner.not_exclusive(start, end, shared));
  }
  pages.insert(pages.end(), own.begin(), own.end());
  return {};
}

MmLayout layout_of(const kernel::ProcStat& stat, std::uint64_t brk) {
  return {.start_code = stat.startcode,
          .end_code = stat.endcode,
          .start_data = stat.start_data,
          .end_data = stat.end_data,
          .start_brk = stat.start_brk,
          .brk = brk,
          .start_stack = stat.startstack,
          .arg_start = stat.arg_start,
          .arg_end = stat.arg_end,
          .env_start = stat.env_start,
          .env_end = stat.env_end};
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Obstacles find_memory_obstacles(HostPid pid, const std::vector<Vma>& vmas) {
  Obstacles obstacles;
  for (const Vma& vma : vmas) {
    if (auto found = find_obstacle(pid, vma)) obstacles.push_back(std::move(*found));
  }
  return obstacles;
}

Result<MemoryImage> MemoryImage::take(const kernel::ProcDir& proc, const kernel::ProcessMemory&, MemoryFacts facts,
                                      const OpenFileTable& open_files) {
  MemoryImage image;
  MemoryRecord& record = image.record_;
  FileList files(proc, record.files);
  const kernel::PageScanner scanner = STASIS_TRY(kernel::PageScanner::open(proc));
  std::vector<kernel::PageRun> pages, shared;
  for (const Vma& vma : facts.vmas) {
    if (vma.path == "[vsyscall]") continue;
    VmaRecord row = STASIS_TRY(record_of(vma, files));
    if (OpenInode* const inode = open_files.find_mapped(facts.pid, vma.start)) {
      row.backing = VmaBacking::kObject;
      row.file = index_of(inode, image.objects_);
      row.huge_page = 0;  // the object's
    } else if (!nameless_link(vma).empty()) {
      return obstacle(facts.pid, vma, "its file was not found").to_error();
    }
    if (row.backing == VmaBacking::kVdso && (!record.vdso || vma.start < record.vdso)) record.vdso = vma.start;
    const bool kernels = row.backing == VmaBacking::kVdso || row.backing == VmaBacking::kKernel;
    if (row.backing == VmaBacking::kObject && !vma.shared && !image.objects_[row.file]->any().held) {
      // What is the file's and what is the process's own can't be told: all of it is saved as its own.
      std::vector<kernel::PageRun> readable;
      STASIS_TRY(add_readable(facts.pid, *image.objects_[row.file], vma, readable));
      for (const kernel::PageRun& run : readable) append(image.of_files_, {.start = run.start, .length = run.size()});
      pages.insert(pages.end(), readable.begin(), readable.end());
    } else if (!vma.shared && !kernels) {
      STASIS_TRY(add_private(scanner, vma, pages, shared));
      if (scanner.sees_guard() && vma.flags.has(VmFlag::kGuard)) {
        std::vector<kernel::PageRun> guards;
        STASIS_TRY(scanner.guard_pages(vma, guards));
        row.guards = to_image_runs(guards);
      }
    }
    record.vmas.push_back(std::move(row));
  }
  record.layout = layout_of(facts.stat, facts.brk);
  record.auxv = bytes_of(STASIS_TRY(proc.read("auxv")));
  const std::string exe = STASIS_TRY(proc.exe_link());
  const struct ::stat st = STASIS_TRY(proc.link_stat("exe"));
  auto executable = files.index_of(exe, st.st_ino, false);
  if (!executable) return std::move(executable).error().note(fmt::format("executable of pid {}", proc.pid().value()));
  record.executable = *executable;
  image.pages_ = to_image_runs(pages);
  image.shared_ = intersect(image.pages_, to_image_runs(shared));
  image.runs_ = image.pages_;
  for (const PageRun& run : image.runs_) record.page_bytes += run.length;
  return image;
}

std::vector<PageRun> MemoryImage::zero_if_absent() const {
  std::vector<PageRun> runs;
  for (const VmaRecord& vma : record_.vmas) {
    if (vma.backing != VmaBacking::kAnonymous || vma.shared || vma.huge_page != 0) continue;
    append(runs, {.start = vma.start, .length = vma.end - vma.start});
  }
  return runs;
}

void MemoryImage::take_from(const MemoryImage& parent, std::vector<PageRun> pages) {
  if (pages.empty()) return;
  pages.resize(std::min<std::size_t>(pages.size(), ForkedPagesRecord::kMaxRuns));
  origin_ = &parent;
  runs_ = subtract(pages_, pages);
  forked_ = std::move(pages);
  record_.forked = true;
  record_.page_bytes = total_length(runs_);
}

Result<void> MemoryImage::checkpoint(CheckpointContext& context, ObjRef ref) const {
  MemoryRecord record = record_;
  ForkedPagesRecord forked{.origin = {}, .pages = forked_};
  if (origin_) {
    forked.origin =
        STASIS_TRY(context.objects.checkpoint_obj(&context, const_cast<MemoryImage*>(origin_), kind::kMemory));
  }
  for (OpenInode* const inode : objects_) {
    const bool in_memory = memory_origin(inode->any().link).has_value();
    const ObjType kind = in_memory ? kind::kSharedMemory : kind::kNamelessFile;
    const ObjRef object = STASIS_TRY(context.objects.checkpoint_obj(&context, inode, kind));
    record.objects.push_back({.object = object, .kind = kind});
  }
  STASIS_TRY(context.write_object(ref, kind::kMemory, record));
  return origin_ ? context.image.write(forked) : Result<void>();
}

std::vector<PageRun> MemoryImage::take_out(std::span<const PageRun> ranges) {
  const std::vector<PageRun> all(ranges.begin(), ranges.end());
  std::vector<PageRun> out = intersect(runs_, all);
  runs_ = subtract(runs_, out);
  return out;
}

}  // namespace stasis
