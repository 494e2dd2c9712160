// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/memory_restore.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>

#include "arch/x86_64/address_space.h"
#include "arch/x86_64/vdso.h"
#include "image/page_runs.h"
#include "resource/kinds.h"
#include "resource/memory/build_id.h"

namespace stasis {
namespace {

using kernel::VmFlag;

constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13
constexpr long kMseal = 462;
constexpr int kSetVma = 0x53564d41;  // PR_SET_VMA
constexpr int kSetVmaAnonName = 0;   // PR_SET_VMA_ANON_NAME
constexpr std::string_view kAnonPrefix = "[anon:", kSharedPrefix = "[anon_shmem:";

// struct prctl_mm_map, include/uapi/linux/prctl.h
struct PrctlMmMap {
  std::uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start, arg_end, env_start,
      env_end, auxv;
  std::uint32_t auxv_size;
  std::int32_t exe_fd;
};
static_assert(sizeof(PrctlMmMap) == 104);

struct Advice {
  VmFlag flag;
  int advice;
  const char* name;
};
constexpr std::array kAdvice = {
    Advice{VmFlag::kHugePage, MADV_HUGEPAGE, "MADV_HUGEPAGE"},
    Advice{VmFlag::kNoHugePage, MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE"},
    Advice{VmFlag::kDontCopy, MADV_DONTFORK, "MADV_DONTFORK"},
    Advice{VmFlag::kWipeOnFork, 18, "MADV_WIPEONFORK"},
    Advice{VmFlag::kDontDump, MADV_DONTDUMP, "MADV_DONTDUMP"},
    Advice{VmFlag::kSequential, MADV_SEQUENTIAL, "MADV_SEQUENTIAL"},
    Advice{VmFlag::kRandom, MADV_RANDOM, "MADV_RANDOM"},
    Advice{VmFlag::kMergeable, MADV_MERGEABLE, "MADV_MERGEABLE"},
};

// Areas with one of these are filled before the program runs: stacks that grow, memory that is locked or sealed, or
// that a fork empties.
constexpr std::array kEager = {VmFlag::kGrowsDown, VmFlag::kLocked, VmFlag::kLockOnFault, VmFlag::kSealed,
                               VmFlag::kWipeOnFork};

bool is_ours_to_map(const VmaRecord& vma) {
  return vma.backing == VmaBacking::kAnonymous || vma.backing == VmaBacking::kFile ||
         vma.backing == VmaBacking::kObject;
}

// What prctl(PR_SET_VMA_ANON_NAME) was given.
std::string given_name(const VmaRecord& vma) {
  for (const std::string_view prefix : {kAnonPrefix, kSharedPrefix}) {
    if (vma.name.starts_with(prefix) && vma.name.ends_with(']'))
      return vma.name.substr(prefix.size(), vma.name.size() - prefix.size() - 1);
  }
  return {};
}

// A shared mapping that can't become writable was made from such an opening, or the memory was sealed before.
bool needs_reading_end(const VmaRecord& vma) { return vma.shared && !vma.vm_flags().has(VmFlag::kMayWrite); }

// Private memory that was writable once is accounted for ever; mapped read-only it would not be.
std::uint32_t first_prot(const VmaRecord& vma) {
  const bool accounted = vma.vm_flags().has(VmFlag::kAccount) && !vma.shared;
  return accounted ? vma.prot | PROT_WRITE : vma.prot;
}

std::string describe(const VmaRecord& vma) { return fmt::format("mapping {:x}-{:x} {}", vma.start, vma.end, vma.name); }

Error bad(const VmaRecord& vma, std::string_view why) {
  return Error(Errc::kBadImage, describe(vma) + ": " + std::string(why));
}

Result<void> check_identity(const MappedFileRecord& file, int fd, const RestartPolicy& policy) {
  struct ::stat st{};
  if (::fstat(fd, &st) != 0) return Error::from_errno(errno, "stat " + file.path);
  if (policy.files == FilePolicy::kRelaxed) return {};
  const auto changed = [&](std::string_view what) {
    return Error(Errc::kFileChanged, fmt::format("{}: mapped file has changed ({})", file.path, what))
        .with_help("put the old file back, or use --files relaxed at your own risk");
  };
  const auto size = static_cast<std::uint64_t>(st.st_size);
  if (file.writable) {
    if (st.st_ino != file.inode) return changed("it is another file");
    if (size < file.size) return changed("it is shorter");
    return {};
  }
  if (!file.build_id.empty()) {
    return read_build_id(fd) == file.build_id ? Result<void>() : Result<void>(changed("its build-id is another one"));
  }
  if (!S_ISREG(st.st_mode)) return {};
  const std::int64_t mtime = std::int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
  if (size != file.size || mtime != file.mtime_ns) return changed("size or time stamp differs");
  return {};
}

}  // namespace

Result<void*> RestoredMemory::restore(void* context, ObjRef) {
  RestartContext& restart = RestartContext::of(context);
  auto memory = std::make_unique<RestoredMemory>();
  memory->record_ = STASIS_TRY(restart.image.read<MemoryRecord>());
  STASIS_TRY(memory->check());
  STASIS_TRY(memory->open_files(restart));
  STASIS_TRY(memory->fetch_objects(restart));
  if (memory->record_.forked) STASIS_TRY(memory->take_origin(restart));
  return static_cast<void*>(static_cast<RestoredObject*>(memory.release()));
}

// Nothing of the image is believed: areas lie in order, inside the address space, on page boundaries, and name files
// that are there.
Result<void> RestoredMemory::check() const {
  std::uint64_t last = 0;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  for (const VmaRecord& vma : record_.vmas) {
    if (vma.start < last || vma.end <= vma.start || vma.end > arch::kAddressSpaceEnd)
      return bad(vma, "is out of order");
    if (vma.start % page || vma.end % page || vma.offset % page) return bad(vma, "is not aligned");
    if (vma.prot > (PROT_READ | PROT_WRITE | PROT_EXEC)) return bad(vma, "has an unknown protection");
    if (vma.backing == VmaBacking::kFile && vma.file >= record_.files.size()) return bad(vma, "names no file");
    if (vma.backing == VmaBacking::kObject && vma.file >= record_.objects.size()) return bad(vma, "names no object");
    if (vma.backing == VmaBacking::kAnonymous && vma.shared) return bad(vma, "is shared with nobody");
    if (vma.huge_page != 0 && (!std::has_single_bit(vma.huge_page) || vma.huge_page < page)) {
      return bad(vma, "has pages of an impossible size");
    }
    for (const PageRun& guard : vma.guards) {
      if (guard.start < vma.start || guard.length > vma.end - guard.start || guard.start >= vma.end)
        return bad(vma, "has a guard outside");
    }
    last = vma.end;
  }
  if (record_.executable >= record_.files.size()) return Error(Errc::kBadImage, "an address space without executable");
  return {};
}

Result<void> RestoredMemory::take_origin(RestartContext& context) {
  forked_ = STASIS_TRY(context.image.read<ForkedPagesRecord>());
  origin_ = STASIS_TRY(fetch_restored<RestoredMemory>(context.objects, forked_.origin, kind::kMemory));
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::uint64_t last = 0;
  for (const PageRun& run : forked_.pages) {
    if (run.start < last || run.length == 0 || run.start % page || run.length % page || !holds(run) ||
        !origin_->holds(run)) {
      return Error(Errc::kBadImage, fmt::format("pages at {:x} can't be those of a parent", run.start));
    }
    last = run.start + run.length;
  }
  for (const VmaRecord* const vma : forked_areas(origin_->record_, record_)) {
    const PageRun area{.start = vma->start, .length = vma->size()};
    if (!intersect(forked_.pages, std::span(&area, 1)).empty()) forked_areas_.push_back(vma);
  }
  return {};
}

Result<void> RestoredMemory::open_files(RestartContext& context) {
  for (const MappedFileRecord& file : record_.files) {
    const int flags = (file.writable ? O_RDWR : O_RDONLY) | O_NOCTTY | O_NONBLOCK;
    UniqueFd fd = STASIS_TRY(context.open_path(file.path, flags));
    STASIS_TRY(check_identity(file, fd.get(), context.policy));
    files_.push_back(STASIS_TRY(context.park(std::move(fd))));
  }
  return {};
}

Result<void> RestoredMemory::fetch_objects(RestartContext& context) {
  for (const MappedObjectRecord& object : record_.objects) {
    if (object.kind != kind::kSharedMemory && object.kind != kind::kNamelessFile) {
      return Error(Errc::kBadImage, "a mapping of an object that can't be mapped");
    }
    objects_.push_back(STASIS_TRY(fetch_restored<RestoredMapping>(context.objects, object.object, object.kind)));
  }
  for (const VmaRecord& vma : record_.vmas) {
    if (vma.backing != VmaBacking::kObject) continue;
    if (is_segment(vma) && vma.offset > vma.start) return bad(vma, "is attached below address 0");
    if (is_segment(vma) || !needs_reading_end(vma)) continue;
    STASIS_TRY(context.reading_end(*objects_[vma.file]));
  }
  return {};
}

bool RestoredMemory::is_segment(const VmaRecord& vma) const {
  return vma.backing == VmaBacking::kObject && objects_[vma.file]->segment().has_value();
}

// Each attachment is made whole; then goes what the program had unmapped of it. Before anything is mapped into such
// holes.
Result<void> RestoredMemory::attach_segments(CallRunner& calls) const {
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::vector<const VmaRecord*>> attachments;  // by object and base
  for (const VmaRecord& vma : record_.vmas) {
    if (is_segment(vma)) attachments[{vma.file, vma.start - vma.offset}].push_back(&vma);
  }
  for (const auto& [key, pieces] : attachments) {
    const auto [object, base] = key;
    const RestoredMapping::Segment segment = *objects_[object]->segment();
    const bool executable = std::ranges::any_of(pieces, [](const VmaRecord* vma) { return vma->prot & PROT_EXEC; });
    const int how = (needs_reading_end(*pieces.front()) ? SHM_RDONLY : 0) | (executable ? SHM_EXEC : 0);
    STASIS_TRY(calls.call("attach " + describe(*pieces.front()), SYS_shmat, segment.id, base, how));
    std::uint64_t at = base;
    const auto leave_hole = [&](std::uint64_t end) -> Result<void> {
      if (at >= end) return {};
      return calls.call("unmap a part of " + describe(*pieces.front()), SYS_munmap, at, end - at);
    };
    for (const VmaRecord* const vma : pieces) {
      STASIS_TRY(leave_hole(vma->start));
      at = vma->end;
    }
    STASIS_TRY(leave_hole(base + segment.size));
  }
  return {};
}

int RestoredMemory::descriptor_of(const VmaRecord& vma) const {
  if (vma.backing == VmaBacking::kAnonymous) return -1;
  if (vma.backing == VmaBacking::kFile) return files_[vma.file].get();
  const RestoredMapping& object = *objects_[vma.file];
  return needs_reading_end(vma) ? object.read_only.get() : object.fd.get();
}

void RestoredMemory::add_ranges(std::vector<std::pair<std::uint64_t, std::uint64_t>>& taken) const {
  for (const VmaRecord& vma : record_.vmas) taken.emplace_back(vma.start, vma.end);
  // A heap may grow from its break.
  taken.emplace_back(record_.layout.start_brk,
                     std::max(record_.layout.start_brk, record_.layout.brk) + (std::uint64_t{1} << 30));
}

bool RestoredMemory::is_kept(const VmaRecord& vma) const {
  return start_ == Start::kForked && std::ranges::binary_search(forked_areas_, &vma);
}

std::vector<PageRun> RestoredMemory::to_copy() const {
  std::vector<PageRun> kept;
  for (const VmaRecord* const vma : forked_areas_) {
    if (is_kept(*vma)) append(kept, {.start = vma->start, .length = vma->size()});
  }
  return subtract(forked_.pages, kept);
}

Result<void> RestoredMemory::empty(CallRunner& calls, const RestartGate& gate) const {
  const std::uint64_t behind = gate.address() + gate.size();
  STASIS_TRY(calls.call("unmap below the gate", SYS_munmap, 0, gate.address()));
  STASIS_TRY(calls.call("unmap above the gate", SYS_munmap, behind, arch::kAddressSpaceEnd - behind));
  if (!record_.vdso) return {};
  return calls.call("map the vdso", SYS_arch_prctl, arch::kArchMapVdso64, record_.vdso);
}

// All that the process has from its parent goes but the gate, the vdso, which is the same, and the forked pages. In the
// areas around these nothing of the parent's is left, whatever it had there.
Result<void> RestoredMemory::keep_forked(CallRunner& calls, const RestartGate& gate) const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> stay{{gate.address(), gate.address() + gate.size()},
                                                            {arch::kAddressSpaceEnd, arch::kAddressSpaceEnd}};
  for (const VmaRecord& vma : record_.vmas) {
    if (vma.backing == VmaBacking::kVdso || is_kept(vma)) stay.emplace_back(vma.start, vma.end);
  }
  std::ranges::sort(stay);
  std::uint64_t at = 0;
  for (const auto& [start, end] : stay) {
    if (at < start) STASIS_TRY(calls.call("unmap what the parent has", SYS_munmap, at, start - at));
    at = std::max(at, end);
  }
  for (const VmaRecord* const vma : forked_areas_) {
    const PageRun area{.start = vma->start, .length = vma->size()};
    for (const PageRun& run : subtract(std::span(&area, 1), forked_.pages)) {
      STASIS_TRY(calls.call("drop the parent's pages in " + describe(*vma), SYS_madvise, run.start, run.length,
                            MADV_DONTNEED));
    }
  }
  return {};
}

Result<void> RestoredMemory::map(CallRunner& calls, const RestartGate& gate, Start start) {
  start_ = start;
  STASIS_TRY(start == Start::kForked ? keep_forked(calls, gate) : empty(calls, gate));
  STASIS_TRY(attach_segments(calls));
  for (const VmaRecord& vma : record_.vmas) {
    if (!is_ours_to_map(vma) || is_kept(vma)) continue;
    const kernel::VmFlags flags = vma.vm_flags();
    int how = MAP_FIXED_NOREPLACE | (vma.shared ? MAP_SHARED : MAP_PRIVATE);
    const int fd = descriptor_of(vma);
    if (fd < 0) how |= MAP_ANONYMOUS;
    if (vma.huge_page != 0) how |= MAP_HUGETLB | std::countr_zero(vma.huge_page) << MAP_HUGE_SHIFT;
    if (flags.has(VmFlag::kGrowsDown)) how |= MAP_GROWSDOWN;
    if (flags.has(VmFlag::kNoReserve)) how |= MAP_NORESERVE;
    if (!is_segment(vma)) {
      const std::uint64_t offset = fd >= 0 ? vma.offset : 0;
      STASIS_TRY(calls.call(describe(vma), SYS_mmap, vma.start, vma.size(), first_prot(vma), how, fd, offset));
    }
    if (const std::string name = given_name(vma); !name.empty()) {
      STASIS_TRY(calls.make_room(1, name.size() + 1));
      const auto text = calls.batch().text(name);
      STASIS_TRY(calls.call("name of " + describe(vma), SYS_prctl, kSetVma, kSetVmaAnonName, vma.start, vma.size(),
                            text.remote));
    }
    // Before the pages are there, since it decides what pages there will be.
    for (const Advice& advice : kAdvice) {
      if (flags.has(advice.flag))
        STASIS_TRY(
            calls.call(advice.name + (" for " + describe(vma)), SYS_madvise, vma.start, vma.size(), advice.advice));
    }
  }
  return calls.flush();
}

bool RestoredMemory::holds(const PageRun& run) const {
  std::uint64_t at = run.start;
  if (run.length > arch::kAddressSpaceEnd || run.start > arch::kAddressSpaceEnd - run.length) return false;
  const std::uint64_t end = run.start + run.length;
  for (const VmaRecord& vma : record_.vmas) {
    if (vma.end <= at) continue;
    if (vma.start > at || vma.shared || !is_ours_to_map(vma)) return false;
    at = vma.end;
    if (at >= end) return true;
  }
  return false;
}

std::vector<PageRun> RestoredMemory::lazy_areas(std::span<const PageRun> pages, std::uint64_t least,
                                                std::span<const RestoredMemory* const> heirs) const {
  const auto is_forked = [&](const VmaRecord& vma) {
    const PageRun area{.start = vma.start, .length = vma.size()};
    const auto brings = [&](const RestoredMemory* heir) {
      return !intersect(heir->forked_.pages, std::span(&area, 1)).empty();
    };
    return std::ranges::binary_search(forked_areas_, &vma) || std::ranges::any_of(heirs, brings);
  };
  std::vector<PageRun> areas;
  for (const VmaRecord& vma : record_.vmas) {
    const kernel::VmFlags flags = vma.vm_flags();
    const bool plain = vma.backing == VmaBacking::kAnonymous && !vma.shared && vma.huge_page == 0;
    const bool must_be_there = std::ranges::any_of(kEager, [&](VmFlag flag) { return flags.has(flag); });
    if (!plain || must_be_there || vma.size() < least || is_forked(vma)) continue;
    const PageRun area{.start = vma.start, .length = vma.size()};
    if (total_length(intersect(pages, std::span(&area, 1))) >= least) areas.push_back(area);
  }
  return areas;
}

Result<void> RestoredMemory::set_layout(CallRunner& calls) const {
  STASIS_TRY(calls.make_room(1, sizeof(PrctlMmMap) + record_.auxv.size() + 64));
  const MmLayout& l = record_.layout;
  const auto auxv = calls.batch().bytes(record_.auxv);
  const PrctlMmMap map{.start_code = l.start_code,
                       .end_code = l.end_code,
                       .start_data = l.start_data,
                       .end_data = l.end_data,
                       .start_brk = l.start_brk,
                       .brk = l.brk,
                       .start_stack = l.start_stack,
                       .arg_start = l.arg_start,
                       .arg_end = l.arg_end,
                       .env_start = l.env_start,
                       .env_end = l.env_end,
                       .auxv = auxv.remote,
                       .auxv_size = static_cast<std::uint32_t>(record_.auxv.size()),
                       .exe_fd = start_ == Start::kForked ? -1 : files_[record_.executable].get()};  // -1: the parent's
  const auto argument = calls.batch().put(map);
  return calls.call("PR_SET_MM_MAP", SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, argument.remote, sizeof map, 0);
}

Result<void> RestoredMemory::finish(CallRunner& calls) const {
  for (const VmaRecord& vma : record_.vmas) {
    if (!is_ours_to_map(vma) || is_kept(vma)) continue;
    const kernel::VmFlags flags = vma.vm_flags();
    for (const PageRun& guard : vma.guards) {
      STASIS_TRY(calls.call("guard region in " + describe(vma), SYS_madvise, guard.start, guard.length, kGuardInstall));
    }
    if (flags.has(VmFlag::kLocked)) {
      STASIS_TRY(calls.call("mlock of " + describe(vma), SYS_mlock2, vma.start, vma.size(),
                            flags.has(VmFlag::kLockOnFault) ? MLOCK_ONFAULT : 0));
    }
    if (first_prot(vma) != vma.prot || is_segment(vma)) {
      STASIS_TRY(calls.call("mprotect of " + describe(vma), SYS_mprotect, vma.start, vma.size(), vma.prot));
    }
    if (flags.has(VmFlag::kSealed))
      STASIS_TRY(calls.call("mseal of " + describe(vma), kMseal, vma.start, vma.size(), 0));
  }
  return set_layout(calls);
}

const VmaRecord* RestoredMemory::vdso_code() const {
  const auto found = std::ranges::find(record_.vmas, "[vdso]", &VmaRecord::name);
  return found == record_.vmas.end() ? nullptr : &*found;
}

std::uint64_t RestoredMemory::syscall_instruction() const {
  const VmaRecord* const code = vdso_code();
  const auto own = arch::own_vdso();
  if (!code || !own) return 0;
  const auto offset = arch::find_syscall_instruction(*own);
  return offset && *offset < code->size() ? code->start + *offset : 0;
}

}  // namespace stasis
