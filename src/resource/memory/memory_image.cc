// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/memory_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "resource/memory/build_id.h"

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
  if (vma.flags.has(VmFlag::kHugeTlb)) return obstacle(pid, vma, "huge pages of hugetlbfs can't be saved yet");
  if (vma.flags.has(VmFlag::kPfnMap) || vma.flags.has(VmFlag::kIo) || vma.flags.has(VmFlag::kMixedMap)) {
    return obstacle(pid, vma, "it is device memory");
  }
  if (vma.flags.has(VmFlag::kUffdMissing) || vma.flags.has(VmFlag::kUffdMinor)) {
    return obstacle(pid, vma, "the program handles its page faults with userfaultfd");
  }
  if (vma.flags.has(VmFlag::kShadowStack)) return obstacle(pid, vma, "it is a shadow stack");
  if (vma.flags.has(VmFlag::kDroppable)) return std::nullopt;
  if (!vma.file_backed()) {
    if (vma.shared) return obstacle(pid, vma, "shared memory without a file can't be saved yet");
    return std::nullopt;
  }
  if (vma.path.starts_with("/dev/zero")) {
    return vma.shared ? std::optional(obstacle(pid, vma, "shared anonymous memory can't be saved yet")) : std::nullopt;
  }
  if (vma.path.starts_with("/SYSV")) return obstacle(pid, vma, "System V shared memory can't be saved yet");
  if (vma.path.starts_with("/memfd:")) return obstacle(pid, vma, "memory of a memfd can't be saved yet");
  if (vma.path.starts_with("anon_inode:") || vma.path.starts_with("/[")) {
    return obstacle(pid, vma, "it belongs to a kernel facility (io_uring, AIO, perf) that can't be saved");
  }
  if (vma.deleted)
    return obstacle(pid, vma, "the mapped file was deleted", "restart the program after its files were replaced");
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
    const UniqueFd fd = STASIS_TRY(open_at(AT_FDCWD, path, O_RDONLY | O_NOCTTY | O_NONBLOCK));
    struct ::stat st{};
    if (::fstat(fd.get(), &st) != 0) return Error::from_errno(errno, "stat " + path);
    if (inode && st.st_ino != inode) {
      return Error(Errc::kFileChanged, fmt::format("pid {}: {} is mapped but the path now leads to another file",
                                                   proc_.pid().value(), path));
    }
    file.device = st.st_dev;
    file.inode = st.st_ino;
    file.size = static_cast<std::uint64_t>(st.st_size);
    file.mtime_ns = mtime_ns(st);
    if (S_ISREG(st.st_mode) && !writable) file.build_id = read_build_id(fd.get());
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
  for (const kernel::PageRun& run : runs) result.push_back({.start = run.start, .length = run.size()});
  return result;
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
  } else if (vma.file_backed()) {
    record.backing = VmaBacking::kFile;
    record.file = STASIS_TRY(files.index_of(vma.path, vma.inode, vma.shared && vma.flags.has(VmFlag::kMayWrite)));
  }
  if (record.backing != VmaBacking::kFile) record.name = vma.path;
  return record;
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

Result<MemoryImage> MemoryImage::take(const kernel::ProcDir& proc, const kernel::ProcessMemory&, MemoryFacts facts) {
  MemoryImage image;
  MemoryRecord& record = image.record_;
  FileList files(proc, record.files);
  const kernel::PageScanner scanner = STASIS_TRY(kernel::PageScanner::open(proc));
  std::vector<kernel::PageRun> pages;
  for (const Vma& vma : facts.vmas) {
    if (vma.path == "[vsyscall]") continue;
    VmaRecord row = STASIS_TRY(record_of(vma, files));
    if (row.backing == VmaBacking::kVdso && (!record.vdso || vma.start < record.vdso)) record.vdso = vma.start;
    if (!vma.shared && (row.backing == VmaBacking::kAnonymous || row.backing == VmaBacking::kFile)) {
      STASIS_TRY(scanner.private_pages(vma, pages));
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
  image.runs_ = to_image_runs(pages);
  for (const PageRun& run : image.runs_) record.page_bytes += run.length;
  return image;
}

Result<void> MemoryImage::write_pages(ImageWriter& image, ObjRef object, const kernel::ProcessMemory& memory,
                                      const Patience& patience) const {
  std::vector<std::byte> buffer;
  std::vector<PageRun> chunk;
  std::vector<kernel::RemoteRange> ranges;
  std::uint64_t filled = 0;
  const auto flush = [&]() -> Result<void> {
    if (chunk.empty()) return {};
    STASIS_TRY(patience.check());
    buffer.resize(filled);
    STASIS_TRY(memory.read(ranges, buffer));
    STASIS_TRY(image.add_chunk(object, chunk, buffer));
    chunk.clear();
    ranges.clear();
    filled = 0;
    return {};
  };
  for (const PageRun& run : runs_) {
    for (std::uint64_t done = 0; done < run.length;) {
      const std::uint64_t part = std::min(run.length - done, kUsualChunkBytes - filled);
      chunk.push_back({.start = run.start + done, .length = part});
      ranges.push_back({.address = run.start + done, .size = part});
      filled += part;
      done += part;
      if (filled == kUsualChunkBytes) STASIS_TRY(flush());
    }
  }
  return flush();
}

}  // namespace stasis
