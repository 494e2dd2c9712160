// SPDX-License-Identifier: Apache-2.0
#include "resource/shared_memory/shared_memory.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <memory>
#include <string_view>

#include "base/file.h"
#include "base/log.h"
#include "kernel/descriptors.h"
#include "kernel/page_size.h"
#include "resource/checkpoint_context.h"
#include "resource/file_contents/file_contents.h"
#include "resource/file_contents/visible_contents.h"
#include "resource/open_file/anonymous_file.h"

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020  // Linux 6.3
#endif
#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

namespace stasis {
namespace {

constexpr std::string_view kPrefix = "/memfd:";
constexpr std::string_view kSuffix = " (deleted)";
constexpr std::string_view kAnonymousName = "dev/zero";  // shows as "/memfd:dev/zero (deleted)"
constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 62;

// Huge memory that no descriptor leads to says so by its mappings.
Result<std::uint64_t> huge_page_of(const OpenInode& inode) {
  const OpenFile& file = inode.any();
  if (file.held) {
    struct ::statfs fs{};
    if (::fstatfs(file.held.get(), &fs) != 0) return Error::from_errno(errno, "ask for the file system of a memfd");
    return fs.f_type == HUGETLBFS_MAGIC ? static_cast<std::uint64_t>(fs.f_bsize) : 0;
  }
  if (inode.views.empty() || inode.views.front().kernel_page_size <= kernel::page_size()) return std::uint64_t{0};
  return inode.views.front().kernel_page_size;
}

Result<void> finish(const SharedMemoryRecord& record, const RestartContext& ctx, int fd) {
  const auto rights = STASIS_TRY(ctx.take_rights());
  struct ::stat stat{};
  if (::fstat(fd, &stat) != 0) return Error::from_errno(errno, "fstat of a memfd");
  if ((stat.st_uid != record.uid || stat.st_gid != record.gid) && ::fchown(fd, record.uid, record.gid) != 0) {
    log::info("files", "the owner of the memfd {} can't be set", record.name);
  }
  if ((stat.st_mode & 07777) != (record.mode & 07777) && ::fchmod(fd, record.mode & 07777) != 0) {
    return Error::from_errno(errno, fmt::format("set the mode of memfd {}", record.name));
  }
  const auto missing = record.seals & ~static_cast<std::uint32_t>(::fcntl(fd, F_GET_SEALS));
  if (missing == 0 || ::fcntl(fd, F_ADD_SEALS, static_cast<int>(missing)) == 0) return {};
  return Error::from_errno(errno, fmt::format("seal memfd {}", record.name));
}

}  // namespace

bool claims_mem_fd(const OpenFile& file, const OpenFileTable&) {
  return S_ISREG(file.stat.st_mode) && file.stat.st_nlink == 0 && file.link.starts_with(kPrefix) &&
         file.link.ends_with(kSuffix);
}

std::optional<Obstacle> mem_fd_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  for (const OutsideHolder& holder : tree.outside.of(file.link)) {
    // Names of memfds are not unique; only an unnamed inode number would tell.
    if (!holder.writes && !tree.tree_writes(file)) continue;
    if (holder.inode != file.stat.st_ino) continue;
    return file.obstacle(Errc::kExternalPeer, fmt::format("{} shares this memory", holder.to_string()),
                         "checkpoint the process that started both");
  }
  return std::nullopt;
}

namespace {

SharedMemoryRecord record_of(const OpenInode& inode) {
  const OpenFile& file = inode.any();
  SharedMemoryRecord record{.mode = file.stat.st_mode, .uid = file.stat.st_uid, .gid = file.stat.st_gid};
  record.origin = memory_origin(file.link).value_or(MemoryOrigin::kMemFd);
  if (record.origin == MemoryOrigin::kMemFd) {
    record.name = file.link.substr(kPrefix.size(), file.link.size() - kPrefix.size() - kSuffix.size());
    // What an earlier restart without the rights for the real thing made of shared anonymous memory.
    if (record.name == kAnonymousName && inode.mapped) record.origin = MemoryOrigin::kAnonymous, record.name.clear();
  }
  return record;
}

}  // namespace

Result<void> checkpoint_shared_memory(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenInode& inode = *static_cast<OpenInode*>(object);
  SharedMemoryRecord record = record_of(inode);
  record.huge_page = STASIS_TRY(huge_page_of(inode));
  if (record.origin == MemoryOrigin::kSystemV) {
    // The inode number of a segment is its id.
    const auto id = static_cast<std::int32_t>(inode.any().stat.st_ino);
    record.segment = STASIS_TRY(look_at_segment(inode.views.front().pid, id));
  }
  if (!inode.any().held) {
    record.size = STASIS_TRY(visible_size(inode));
    STASIS_TRY(write_visible_later(ctx, ref, inode, record.size));
    return ctx.write_object(ref, kind::kSharedMemory, record);
  }
  record.size = static_cast<std::uint64_t>(inode.any().stat.st_size);
  UniqueFd fd = STASIS_TRY(open_for_reading(inode));
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0) return Error::from_errno(errno, "ask for the seals of a memfd");
  if (record.origin == MemoryOrigin::kMemFd) record.seals = static_cast<std::uint32_t>(seals);
  if (record.size != 0) {
    STASIS_TRY(ctx.contents.add([&image = ctx.image, &patience = ctx.patience, ref, fd = std::move(fd),
                                 size = record.size] { return write_contents(image, ref, fd.get(), size, patience); }));
  }
  return ctx.write_object(ref, kind::kSharedMemory, record);
}

Result<void> checkpoint_mem_fd(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const ObjRef memory = STASIS_TRY(ctx.objects.checkpoint_obj(context, file.inode, kind::kSharedMemory));
  return ctx.write_object(ref, kind::kMemFd,
                          MemFdRecord{.memory = memory, .flags = file.info.flags, .offset = file.info.pos});
}

namespace {

// The file behind a mapping of ours, as no call makes such a file directly. Empty without the right to open it.
UniqueFd make_anonymous(const SharedMemoryRecord& record) {
  const int huge = record.huge_page != 0 ? MAP_HUGETLB | std::countr_zero(record.huge_page) << MAP_HUGE_SHIFT : 0;
  void* const at = ::mmap(nullptr, record.size, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | huge, -1, 0);
  if (at == MAP_FAILED) return {};
  const auto start = reinterpret_cast<std::uintptr_t>(at);
  auto fd = open_at(AT_FDCWD, fmt::format("/proc/self/map_files/{:x}-{:x}", start, start + record.size), O_RDWR);
  ::munmap(at, record.size);
  return fd ? *std::move(fd) : UniqueFd();
}

Result<UniqueFd> make_memory(const SharedMemoryRecord& record) {
  if (record.origin == MemoryOrigin::kAnonymous && record.size != 0) {
    if (UniqueFd fd = make_anonymous(record)) return fd;
  }
  unsigned flags = MFD_ALLOW_SEALING | ((record.mode & 0111) != 0 ? kernel::kMfdExec : 0);
  if (record.huge_page != 0) {
    flags |= MFD_HUGETLB | static_cast<unsigned>(std::countr_zero(record.huge_page)) << MFD_HUGE_SHIFT;
  }
  const bool anonymous = record.origin == MemoryOrigin::kAnonymous;
  return kernel::memfd_create(anonymous ? std::string(kAnonymousName).c_str() : record.name.c_str(), flags);
}

bool is_possible(const SharedMemoryRecord& record) {
  const bool huge = record.huge_page == 0 || (std::has_single_bit(record.huge_page) &&
                                              record.huge_page >= kernel::page_size() && record.huge_page < kMaxSize);
  if (record.origin == MemoryOrigin::kSystemV && (record.segment.id < 0 || record.segment.size > kMaxSize))
    return false;
  return S_ISREG(record.mode) && record.size <= kMaxSize && huge && record.name.find('\0') == std::string::npos;
}

}  // namespace

Result<void*> restore_shared_memory(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const SharedMemoryRecord record = STASIS_TRY(ctx.image.read<SharedMemoryRecord>());
  if (!is_possible(record)) return Error(Errc::kBadImage, "shared memory of an impossible kind");
  auto memory = std::make_unique<RestoredSharedMemory>();
  memory->size = record.size;
  memory->huge_page = record.huge_page;
  if (record.origin == MemoryOrigin::kSystemV) {
    memory->attached = STASIS_TRY(RestoredSegment::make(record.segment, record.huge_page, ctx));
    return to_object(std::move(memory));
  }
  UniqueFd fd;
  {
    const auto rights = STASIS_TRY(ctx.take_rights());  // it belongs to whom the image belongs to
    fd = STASIS_TRY(make_memory(record));
  }
  memory->fd = STASIS_TRY(ctx.park(std::move(fd)));
  if (::ftruncate(memory->fd.get(), static_cast<off_t>(record.size)) != 0) {
    return Error::from_errno(errno, fmt::format("give memfd {} its size", record.name));
  }
  if (record.origin == MemoryOrigin::kMemFd) {
    UniqueFd own = STASIS_TRY(ctx.park_duplicate(memory->fd.get()));
    STASIS_TRY(ctx.deferred.add([&ctx, record, own = std::move(own)] { return finish(record, ctx, own.get()); }));
  }
  return to_object(std::move(memory));
}

std::optional<RestoredMapping::Segment> RestoredSharedMemory::segment() const {
  if (attached.id() < 0) return std::nullopt;
  return Segment{.id = attached.id(), .size = attached.memory().size()};
}

Result<void> RestoredSharedMemory::fill(std::span<const PageRun> runs, std::span<const std::byte> pages) {
  if (attached.id() >= 0) return fill_memory(attached.memory(), runs, pages);
  if (huge_page == 0) return fill_contents(fd.get(), size, runs, pages);
  return fill_mapped(fd.get(), size, huge_page, runs, pages);
}

Result<void*> restore_mem_fd(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const MemFdRecord record = STASIS_TRY(ctx.image.read<MemFdRecord>());
  const auto* const memory =
      STASIS_TRY(fetch_restored<RestoredSharedMemory>(ctx.objects, record.memory, kind::kSharedMemory));
  auto file = std::make_unique<RestoredFile>();
  UniqueFd fd = STASIS_TRY(reopen(memory->fd.get(), record.flags, record.offset));
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  return to_object(std::move(file));
}

}  // namespace stasis
