// SPDX-License-Identifier: Apache-2.0
#include "resource/nameless_file/nameless_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <random>
#include <string_view>

#include "base/file.h"
#include "base/log.h"
#include "resource/checkpoint_context.h"
#include "resource/file_contents/file_contents.h"
#include "resource/file_contents/visible_contents.h"
#include "resource/open_file/other_name.h"
#include "resource/open_file/stateless_device.h"

namespace stasis {
namespace {

constexpr std::string_view kDeletedSuffix = " (deleted)";
constexpr std::string_view kUnreachablePrefix = "(unreachable)";
constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 62;

std::string without_suffix(const std::string& link) {
  return link.ends_with(kDeletedSuffix) ? link.substr(0, link.size() - kDeletedSuffix.size()) : link;
}

std::int64_t to_ns(const timespec& t) { return t.tv_sec * kSecond + t.tv_nsec; }

bool can_be_made(std::uint32_t mode, std::uint64_t device_number) {
  return S_ISREG(mode) || S_ISDIR(mode) || is_stateless_device(mode, device_number);
}

timespec to_timespec(std::int64_t ns) {
  const std::int64_t rest = ((ns % kSecond) + kSecond) % kSecond;
  return {(ns - rest) / kSecond, rest};
}

}  // namespace

NameFound find_name(const OpenFile& file) {
  if (!file.link.starts_with('/')) {
    return {file.link.starts_with(kUnreachablePrefix) ? FileName::kUnreachable : FileName::kDeleted, file.link};
  }
  if (file.link_leads_to_it) return {FileName::kLeadsToIt, file.link};
  struct ::stat named{};
  const bool found = ::fstatat(AT_FDCWD, file.link.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0;
  const int why = errno;
  if (found && named.st_dev == file.stat.st_dev && named.st_ino == file.stat.st_ino) {
    file.link_leads_to_it = true;
    return {FileName::kLeadsToIt, file.link};
  }
  const std::string path = without_suffix(file.link);
  // A directory counts itself and is never linked twice.
  if (file.stat.st_nlink == 0 || (S_ISDIR(file.stat.st_mode) && path != file.link)) return {FileName::kDeleted, path};
  if (!found && why == EACCES) return {FileName::kUnreachable, path};
  if (auto other = other_name(directory_of(path), file.stat.st_dev, file.stat.st_ino))
    return {FileName::kLeadsToIt, *std::move(other)};
  return {path != file.link ? FileName::kLinkedElsewhere : FileName::kTakenByOther, path};
}

std::optional<Obstacle> name_obstacle(const OpenFile& file, const OpenFileTable& tree) {
  const NameFound name = find_name(file);
  switch (name.state) {
    case FileName::kLeadsToIt:
      return std::nullopt;
    case FileName::kDeleted:
      break;
    case FileName::kLinkedElsewhere:
      return file.obstacle(Errc::kUnsupportedObject,
                           "its name was deleted, and its other names are not in that directory",
                           "give it a name in the same directory (ln)");
    case FileName::kTakenByOther:
      return file.obstacle(Errc::kUnsupportedObject, "its path now leads to another file, or something hides it");
    case FileName::kUnreachable:
      return file.obstacle(Errc::kUnsupportedObject, "its path can't be reached from here",
                           "root can reach every directory; a file outside the root directory nobody can");
  }
  if (!can_be_made(file.stat.st_mode, file.stat.st_rdev)) {
    return file.obstacle(Errc::kUnsupportedObject, "its name was deleted while it is open");
  }
  if (S_ISCHR(file.stat.st_mode)) {
    if (file.inode == nullptr || file.inode->views.empty()) return std::nullopt;
    return file.obstacle(Errc::kUnsupportedObject, "its name was deleted while it is open and mapped");
  }
  for (const OutsideHolder& holder : tree.outside.of(file.link)) {
    if (!holder.writes && !tree.tree_writes(file)) continue;
    return file.obstacle(Errc::kExternalPeer,
                         fmt::format("the file was deleted, and {} has it open, too", holder.to_string()),
                         "checkpoint the process that started both");
  }
  return std::nullopt;
}

Result<void> checkpoint_nameless_file(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenInode& inode = *static_cast<OpenInode*>(object);
  const struct ::stat& stat = inode.any().stat;
  NamelessFileRecord record{.path = without_suffix(inode.any().link),
                            .mode = stat.st_mode,
                            .uid = stat.st_uid,
                            .gid = stat.st_gid,
                            .size = S_ISREG(stat.st_mode) ? static_cast<std::uint64_t>(stat.st_size) : 0,
                            .atime_ns = to_ns(stat.st_atim),
                            .mtime_ns = to_ns(stat.st_mtim),
                            .device_number = S_ISCHR(stat.st_mode) ? stat.st_rdev : 0};
  if (S_ISCHR(stat.st_mode)) return ctx.write_object(ref, kind::kNamelessFile, record);
  if (!inode.any().held) {
    record.size = STASIS_TRY(visible_size(inode));
    STASIS_TRY(write_visible_later(ctx, ref, inode, record.size));
  } else if (S_ISREG(stat.st_mode) && record.size != 0) {
    UniqueFd fd = STASIS_TRY(open_for_reading(inode));
    STASIS_TRY(ctx.contents.add([&image = ctx.image, &patience = ctx.patience, ref, fd = std::move(fd),
                                 size = record.size] { return write_contents(image, ref, fd.get(), size, patience); }));
  }
  return ctx.write_object(ref, kind::kNamelessFile, record);
}

namespace {

// A name that nobody else uses.
std::string temporary_name(const std::string& directory) {
  std::random_device random;
  return fmt::format("{}/.stasis-{:08x}{:08x}", directory, random(), random());
}

Result<UniqueFd> make_directory(const NamelessFileRecord&, const std::string& directory, const RestartContext& ctx) {
  const std::string name = temporary_name(directory);
  STASIS_TRY(ctx.make_directory(name, 0700));
  auto fd = ctx.open_path(name, O_RDONLY | O_DIRECTORY);
  if (::rmdir(name.c_str()) != 0) return Error::from_errno(errno, "remove " + name);
  return fd;
}

Result<UniqueFd> make_file(const NamelessFileRecord&, const std::string& directory, const RestartContext& ctx) {
  auto fd = ctx.open_path(directory, O_TMPFILE | O_RDWR | O_EXCL, 0600);
  if (fd || (fd.error().sys_errno() != EOPNOTSUPP && fd.error().sys_errno() != EISDIR)) return fd;
  const std::string name = temporary_name(directory);
  auto named = ctx.open_path(name, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (named && ::unlink(name.c_str()) != 0) return Error::from_errno(errno, "remove " + name);
  return named;
}

Result<UniqueFd> open_and_unlink(const std::string& name, const RestartContext& ctx) {
  auto fd = ctx.open_path(name, O_RDWR | O_NOCTTY | O_NOFOLLOW);
  if (::unlink(name.c_str()) != 0) return Error::from_errno(errno, "remove " + name);
  return fd;
}

Result<UniqueFd> make_device(const NamelessFileRecord& record, const std::string& directory,
                             const RestartContext& ctx) {
  const auto rights = STASIS_TRY(ctx.take_rights());
  const std::string name = temporary_name(directory);
  if (::mknod(name.c_str(), S_IFCHR | 0600, record.device_number) != 0) {
    Error error = Error::from_errno(errno, "make device " + name);
    if (error.sys_errno() != EPERM) return error;
    return std::move(error).with_code(Errc::kMissingCapability).with_help("it takes CAP_MKNOD: run as root");
  }
  UniqueFd fd = STASIS_TRY(open_and_unlink(name, ctx));
  // Whoever may write to that directory may have put something else in its place.
  struct ::stat made{};
  if (::fstat(fd.get(), &made) != 0 || !S_ISCHR(made.st_mode) || made.st_rdev != record.device_number) {
    return Error(Errc::kFileChanged, fmt::format("{} was replaced while it was made", name));
  }
  return fd;
}

Result<UniqueFd> make_anywhere(const NamelessFileRecord& record, const RestartContext& ctx) {
  const bool device = S_ISCHR(record.mode);
  const auto make = S_ISDIR(record.mode) ? make_directory : device ? make_device : make_file;
  auto made = make(record, directory_of(record.path), ctx);
  if (made) return made;
  log::info("files", "{}: {}", record.path, made.error().message());
  // Few file systems but that of /dev let devices be opened where somebody took care.
  for (const char* const directory : {"/tmp", "/dev"}) {
    if (directory == std::string_view("/dev") && !device) continue;
    auto elsewhere = make(record, directory, ctx);
    if (elsewhere) return elsewhere;
  }
  return std::move(made).error().note(
      fmt::format("make the deleted {} {} again", device ? "device" : "file", record.path));
}

Result<void> finish(const NamelessFileRecord& record, const RestartContext& ctx, int fd) {
  const auto rights = STASIS_TRY(ctx.take_rights());
  struct ::stat stat{};
  if (::fstat(fd, &stat) != 0) return Error::from_errno(errno, "fstat " + record.path);
  if ((stat.st_uid != record.uid || stat.st_gid != record.gid) && ::fchown(fd, record.uid, record.gid) != 0) {
    log::info("files", "the owner of the deleted file {} can't be set", record.path);
  }
  const std::array times = {to_timespec(record.atime_ns), to_timespec(record.mtime_ns)};
  if (::fchmod(fd, record.mode & 07777) == 0 && ::futimens(fd, times.data()) == 0) return {};
  return Error::from_errno(errno, "set mode and times of the deleted file " + record.path);
}

}  // namespace

Result<void*> restore_nameless_file(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  auto file = std::make_unique<RestoredNamelessFile>();
  file->record = STASIS_TRY(ctx.image.read<NamelessFileRecord>());
  const NamelessFileRecord& record = file->record;
  if (!can_be_made(record.mode, record.device_number) || record.size > kMaxSize || !record.path.starts_with('/')) {
    return Error(Errc::kBadImage, "a deleted file of an impossible kind");
  }
  UniqueFd fd = STASIS_TRY(make_anywhere(record, ctx));
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  if (S_ISREG(record.mode) && ::ftruncate(file->fd.get(), static_cast<off_t>(record.size)) != 0) {
    return Error::from_errno(errno, fmt::format("give the deleted file {} its size", record.path));
  }
  UniqueFd own = STASIS_TRY(ctx.park_duplicate(file->fd.get()));
  STASIS_TRY(ctx.deferred.add([&ctx, record, own = std::move(own)] { return finish(record, ctx, own.get()); }));
  return to_object(std::move(file));
}

Result<void> RestoredNamelessFile::fill(std::span<const PageRun> runs, std::span<const std::byte> pages) {
  if (!S_ISREG(record.mode)) return Error(Errc::kBadImage, "contents of a directory or device");
  return fill_contents(fd.get(), record.size, runs, pages);
}

}  // namespace stasis
