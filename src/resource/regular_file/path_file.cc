// SPDX-License-Identifier: Apache-2.0
#include "resource/regular_file/path_file.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/types.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "resource/checkpoint_context.h"
#include "resource/kinds.h"
#include "resource/nameless_file/nameless_file.h"
#include "resource/open_file/anonymous_file.h"
#include "resource/open_file/stateless_device.h"

namespace stasis {
namespace {

constexpr std::uint32_t kLargeFile = 0100000;  // always set for what is opened by path; <fcntl.h> has it as 0
constexpr std::uint32_t kTemporaryBit = O_TMPFILE & ~O_DIRECTORY;
// What open(2) is given again.
constexpr std::uint32_t kReopenFlags =
    O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DIRECT | O_NOATIME | O_DIRECTORY | O_NOFOLLOW | O_PATH | kLargeFile;
constexpr std::uint32_t kPathOnlyFlags = O_PATH | O_DIRECTORY | O_NOFOLLOW;

bool is_synthetic(const OpenFile& file) {
  struct ::statfs fs{};
  const int failed = file.held ? ::fstatfs(file.held.get(), &fs) : ::statfs(file.link.c_str(), &fs);
  if (failed != 0) return false;
  constexpr std::array<unsigned long, 9> kMagics = {PROC_SUPER_MAGIC,    SYSFS_MAGIC,    CGROUP_SUPER_MAGIC,
                                                    CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,  TRACEFS_MAGIC,
                                                    SECURITYFS_MAGIC,    PSTOREFS_MAGIC, BPF_FS_MAGIC};
  return std::ranges::find(kMagics, static_cast<unsigned long>(fs.f_type)) != kMagics.end();
}

std::int64_t birth_time(int fd) {
  struct ::statx extended{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &extended) != 0 || (extended.stx_mask & STATX_BTIME) == 0) return 0;
  return extended.stx_btime.tv_sec * 1'000'000'000 + extended.stx_btime.tv_nsec;
}

std::int64_t mtime_of(const struct ::stat& stat) {
  return stat.st_mtim.tv_sec * std::int64_t{1'000'000'000} + stat.st_mtim.tv_nsec;
}

Error changed(const PathFileRecord& record, std::string_view how) {
  return Error(Errc::kFileChanged, fmt::format("{} {}", record.path, how));
}

std::string_view type_name(std::uint32_t mode) {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISFIFO(mode)) return "a FIFO";
  return "a socket";
}

bool same_inode(const PathFileRecord& record, const FoundFile& found) {
  if (record.inode != found.inode) return false;
  if (record.birth_ns != 0 && found.birth_ns != 0) return record.birth_ns == found.birth_ns;
  return record.device == found.device;
}

Result<FileVerdict> judge_written(const PathFileRecord& record, const FoundFile& found, FilePolicy policy) {
  if (policy == FilePolicy::kRelaxed) return FileVerdict::kTakeAsIs;
  if (!same_inode(record, found)) {
    return changed(record, "is not the file that was open for writing")
        .with_help("--files relaxed takes what is there");
  }
  if (found.size < record.size) {
    return changed(record, fmt::format("has {} bytes, at the checkpoint it had {}", found.size, record.size))
        .with_help("--files relaxed takes it as it is");
  }
  if (found.size == record.size) return FileVerdict::kTakeAsIs;
  if (policy == FilePolicy::kRollback) return FileVerdict::kTruncate;
  return changed(record, fmt::format("has grown from {} to {} bytes since the checkpoint", record.size, found.size))
      .with_help("--files rollback truncates it to the saved size, --files relaxed takes it as it is");
}

}  // namespace

Result<FoundFile> FoundFile::look(int fd) {
  struct ::stat stat{};
  if (::fstat(fd, &stat) != 0) return Error::from_errno(errno, "fstat");
  return FoundFile{.mode = stat.st_mode,
                   .device = stat.st_dev,
                   .inode = stat.st_ino,
                   .device_number = stat.st_rdev,
                   .size = static_cast<std::uint64_t>(stat.st_size),
                   .mtime_ns = mtime_of(stat),
                   .birth_ns = birth_time(fd)};
}

Result<FileVerdict> judge_file(const PathFileRecord& record, const FoundFile& found, FilePolicy policy) {
  if ((record.mode & S_IFMT) != (found.mode & S_IFMT)) {
    return changed(record, fmt::format("is {} now, it was {}", type_name(found.mode), type_name(record.mode)));
  }
  if (S_ISCHR(record.mode) && record.device_number != found.device_number) {
    return changed(record, "is another device now");
  }
  if (!S_ISREG(record.mode) || record.synthetic || (record.flags & O_PATH) != 0) return FileVerdict::kTakeAsIs;
  if (record.tree_writes) return judge_written(record, found, policy);
  if (policy == FilePolicy::kRelaxed) return FileVerdict::kTakeAsIs;
  if (record.size == found.size && record.mtime_ns == found.mtime_ns) return FileVerdict::kTakeAsIs;
  return changed(record, "was modified since the checkpoint").with_help("--files relaxed takes it as it is");
}

bool claims_path_file(const OpenFile& file, const OpenFileTable&) {
  if (!file.link.starts_with('/') && !file.link.starts_with("(unreachable)")) return false;
  if (file.is_path_only()) return true;
  return S_ISREG(file.stat.st_mode) || S_ISDIR(file.stat.st_mode) ||
         is_stateless_device(file.stat.st_mode, file.stat.st_rdev);
}

std::optional<Obstacle> path_file_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  constexpr std::uint32_t kKnown = kReopenFlags | kTemporaryBit | O_ASYNC;
  if ((file.info.flags & ~kKnown) != 0) {
    return file.obstacle(Errc::kUnsupportedObject, fmt::format("unknown flags {:#o}", file.info.flags & ~kKnown));
  }
  // Pressure-stall triggers live as long as the opening they were written to.
  if (file.writes() && file.link.find("pressure") != std::string::npos && is_synthetic(file)) {
    return file.obstacle(Errc::kUnsupportedObject, "a pressure-stall trigger can't be saved");
  }
  return name_obstacle(file, tree);
}

Result<void> checkpoint_path_file(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const NameFound name = find_name(file);
  PathFileRecord record{.path = name.path,
                        .flags = file.info.flags & kReopenFlags,
                        .offset = file.info.pos,
                        .mode = file.stat.st_mode,
                        .device = file.stat.st_dev,
                        .inode = file.stat.st_ino,
                        .device_number = file.stat.st_rdev,
                        .size = static_cast<std::uint64_t>(file.stat.st_size),
                        .mtime_ns = mtime_of(file.stat),
                        .tree_writes = ctx.files.tree_writes(file),
                        .synthetic = is_synthetic(file)};
  // A file born of O_TMPFILE keeps O_DIRECTORY as a part of that flag.
  if (!S_ISDIR(record.mode)) record.flags &= ~unsigned{O_DIRECTORY};
  if (file.held) record.birth_ns = birth_time(file.held.get());
  for (const kernel::FileLock& lock : file.info.locks) {
    if (const auto known = to_record(lock)) record.locks.push_back(*known);
  }
  if (name.state == FileName::kDeleted) {
    record.nameless = STASIS_TRY(ctx.objects.checkpoint_obj(context, file.inode, kind::kNamelessFile));
  } else if (name.state != FileName::kLeadsToIt) {
    return name_obstacle(file, ctx.files)->to_error();
  }
  return ctx.write_object(ref, kind::kPathFile, record);
}

namespace {

// Opens only what is still of the recorded type: opening some other thing might block or have effects.
Result<UniqueFd> open_again(const PathFileRecord& record, const RestartContext& ctx) {
  const int follow = S_ISLNK(record.mode) ? O_NOFOLLOW : 0;
  const UniqueFd look = STASIS_TRY(ctx.open_path(record.path, O_PATH | follow));
  const FoundFile found = STASIS_TRY(FoundFile::look(look.get()));
  STASIS_TRY(judge_file(record, found, FilePolicy::kRelaxed));
  const bool opened =
      S_ISREG(found.mode) || S_ISDIR(found.mode) || is_stateless_device(found.mode, found.device_number);
  if (!opened && (record.flags & O_PATH) == 0) {
    return Error(Errc::kBadImage, fmt::format("{}: {} is not opened by its name", record.path, type_name(found.mode)));
  }
  if ((record.flags & O_PATH) != 0) return ctx.open_path(record.path, static_cast<int>(record.flags & kPathOnlyFlags));
  return ctx.open_path(record.path, static_cast<int>(record.flags & kReopenFlags) | O_NOCTTY);
}

Result<void> seek(const PathFileRecord& record, int fd) {
  if (record.offset == 0 || (record.flags & O_PATH) != 0 || S_ISCHR(record.mode)) return {};
  if (::lseek(fd, record.offset, SEEK_SET) == record.offset) return {};
  return Error::from_errno(errno, fmt::format("set the offset of {} to {}", record.path, record.offset));
}

Result<void> truncate_later(const PathFileRecord& record, int fd, DeferQueue& deferred) {
  UniqueFd own(::fcntl(fd, F_DUPFD_CLOEXEC, fd));
  if (!own) return Error::from_errno(errno, "duplicate a descriptor");
  return deferred.add([own = std::move(own), size = record.size, path = record.path]() -> Result<void> {
    if (::ftruncate(own.get(), static_cast<off_t>(size)) == 0) return {};
    return Error::from_errno(errno, fmt::format("truncate {} to its saved size", path));
  });
}

// At the end: until then the program that was saved may still be ending.
Result<void> lock_later(const PathFileRecord& record, int fd, RestartContext& ctx) {
  if (record.locks.empty()) return {};
  UniqueFd own = STASIS_TRY(ctx.park_duplicate(fd));
  return ctx.deferred.add([locks = record.locks, path = record.path, own = std::move(own)]() -> Result<void> {
    for (const FileLockRecord& lock : locks) STASIS_TRY(take_lock(own.get(), lock, path));
    return {};
  });
}

Result<UniqueFd> restore_nameless(const PathFileRecord& record, RestartContext& ctx) {
  const auto* const file =
      STASIS_TRY(fetch_restored<RestoredNamelessFile>(ctx.objects, record.nameless, kind::kNamelessFile));
  const std::int64_t offset = S_ISCHR(record.mode) ? 0 : record.offset;
  UniqueFd opened = STASIS_TRY(reopen(file->fd.get(), record.flags, offset));
  return ctx.park(std::move(opened));
}

Result<UniqueFd> restore(const PathFileRecord& record, RestartContext& ctx) {
  if (record.nameless) return restore_nameless(record, ctx);
  auto opened = open_again(record, ctx);
  if (!opened && opened.error().code() == Errc::kFileMissing) {
    return std::move(opened).error().with_help("put the file back to where it was");
  }
  if (!opened) return opened;
  const FoundFile found = STASIS_TRY(FoundFile::look(opened->get()));
  const FileVerdict verdict = STASIS_TRY(judge_file(record, found, ctx.policy.files));
  STASIS_TRY(seek(record, opened->get()));
  UniqueFd parked = STASIS_TRY(ctx.park(*std::move(opened)));
  const bool writable = (record.flags & O_ACCMODE) != O_RDONLY;  // else another opening truncates it
  if (verdict == FileVerdict::kTruncate && writable) STASIS_TRY(truncate_later(record, parked.get(), ctx.deferred));
  return parked;
}

}  // namespace

Result<void*> restore_path_file(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const PathFileRecord record = STASIS_TRY(ctx.image.read<PathFileRecord>());
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(restore(record, ctx));
  STASIS_TRY(lock_later(record, file->fd.get(), ctx));
  return to_object(std::move(file));
}

}  // namespace stasis
