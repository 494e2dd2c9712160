// SPDX-License-Identifier: Apache-2.0
#include "resource/fanotify/fanotify.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "kernel/namespaces.h"
#include "kernel/proc_dir.h"
#include "kernel/proc_text.h"
#include "kernel/scoped_capability.h"
#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

// Some are newer than the C library.
constexpr std::uint32_t kIgnore = 0x400;                                              // FAN_MARK_IGNORE
constexpr std::uint32_t kMarkFlags = FAN_MARK_IGNORED_SURV_MODIFY | 0x200 | kIgnore;  // 0x200: FAN_MARK_EVICTABLE
constexpr std::uint32_t kMountIds = 0x4000;                                           // FAN_REPORT_MNT
// They ask before something is done: FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM, FAN_PRE_ACCESS.
constexpr std::uint32_t kQuestions = 0xf0000;

Result<int> bytes_waiting(int fd) {
  int bytes = 0;
  if (::ioctl(fd, FIONREAD, &bytes) == 0) return bytes;
  return Error::from_errno(errno, "ask for waiting fanotify events");
}

// A mount as the process sees it, if its mount point leads to it and to nothing mounted above.
bool leads_to(const kernel::ProcDir& process, const std::string& mount_point, const FanotifyMark& mark) {
  struct ::statx found{};
  const std::string path = "root" + mount_point;
  if (::statx(process.fd(), path.c_str(), AT_NO_AUTOMOUNT, STATX_MNT_ID, &found) != 0) return false;
  if (mark.object == MarkedObject::kFileSystem) {
    return makedev(found.stx_dev_major, found.stx_dev_minor) == mark.file.id.device;
  }
  return (found.stx_mask & STATX_MNT_ID) != 0 && found.stx_mnt_id == static_cast<std::uint64_t>(mark.mount_id);
}

std::string find_mount_point(const kernel::ProcDir& process, const FanotifyMark& mark) {
  const auto mounts = process.mounts();
  if (!mounts) return {};
  for (const kernel::Mount& mount : *mounts) {
    const bool same = mark.object == MarkedObject::kMount
                          ? mount.id == mark.mount_id
                          : makedev(mount.dev_major, mount.dev_minor) == mark.file.id.device;
    if (same && leads_to(process, mount.mount_point, mark)) return mount.mount_point;
  }
  return {};
}

// For every mark; empty where none was found.
std::vector<std::string> paths_of(const OpenFile& file, const FanotifyGroup& group, const OpenFileTable& tree) {
  std::vector<WatchedFile> files;
  for (const FanotifyMark& mark : group.marks) {
    if (mark.object == MarkedObject::kFile) files.push_back(mark.file);
  }
  const std::vector<std::string> file_paths = find_watched_paths(file, files, tree);
  const auto process = kernel::ProcDir::open(file.pid());
  auto next = file_paths.begin();
  std::vector<std::string> paths;
  for (const FanotifyMark& mark : group.marks) {
    if (mark.object == MarkedObject::kFile) {
      paths.push_back(*next++);
    } else {
      paths.push_back(process ? find_mount_point(*process, mark) : "");
    }
  }
  return paths;
}

std::string name_of(const FanotifyMark& mark) {
  switch (mark.object) {
    case MarkedObject::kFile:
      return fmt::format("inode {}", mark.file.id.inode);
    case MarkedObject::kMount:
      return fmt::format("mount {}", mark.mount_id);
    case MarkedObject::kFileSystem:
      return fmt::format("file system {}:{}", major(mark.file.id.device), minor(mark.file.id.device));
  }
  return {};
}

// The kernel does not tell whether the group was made with CAP_SYS_ADMIN. Without a handle to report it was; else it
// is taken for so if the process has the capability, and not in a user namespace below ours.
bool is_privileged(const OpenFile& file, const FanotifyGroup& group) {
  constexpr std::uint32_t kHandles = FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME;
  if ((group.flags & kHandles) == 0) return true;
  const auto process = kernel::ProcDir::open(file.pid());
  if (!process) return false;
  const auto status = process->status();
  const auto theirs = read_link(process->fd(), "ns/user");
  const auto ours = read_link(AT_FDCWD, "/proc/self/ns/user");
  return status && theirs && ours && *theirs == *ours && (status->cap_effective >> CAP_SYS_ADMIN & 1) != 0;
}

unsigned mark_object_flag(MarkedObject object) {
  switch (object) {
    case MarkedObject::kFile:
      return FAN_MARK_INODE;
    case MarkedObject::kMount:
      return FAN_MARK_MOUNT;
    case MarkedObject::kFileSystem:
      return FAN_MARK_FILESYSTEM;
  }
  return 0;
}

Error with_capability(Error error) {
  if (error.sys_errno() == ENOSPC || error.sys_errno() == EMFILE) {
    return std::move(error).with_help("raise fs.fanotify.max_user_marks and max_user_groups");
  }
  if (error.sys_errno() != EPERM) return error;
  return std::move(error).with_code(Errc::kMissingCapability).with_help("it takes CAP_SYS_ADMIN: run as root");
}

Result<void> add_mark(int group, const FanotifyMarkRecord& mark, int file) {
  struct ::statx found{};
  if (::statx(file, "", AT_EMPTY_PATH, STATX_TYPE, &found) != 0)
    return Error::from_errno(errno, "ask for " + mark.path);
  const bool whole = mark.object != MarkedObject::kFile;
  if (whole && (found.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0) {
    return Error(Errc::kFileMissing, fmt::format("nothing is mounted at {}, which the program watches", mark.path))
        .with_help("mount it again");
  }
  // The kernel itself adds FAN_EVENT_ON_CHILD where this means nothing, and takes it from nobody else.
  const std::uint32_t dropped = whole || !S_ISDIR(found.stx_mode) ? FAN_EVENT_ON_CHILD : 0;
  const std::string path = fmt::format("/proc/self/fd/{}", file);
  const auto add = [&](unsigned flags, std::uint32_t mask) -> Result<void> {
    flags |= FAN_MARK_ADD | mark_object_flag(mark.object);
    if ((mask & ~dropped) == 0 || ::fanotify_mark(group, flags, mask & ~dropped, AT_FDCWD, path.c_str()) == 0)
      return {};
    return with_capability(Error::from_errno(errno, "watch " + mark.path));
  };
  const unsigned evictable = mark.flags & 0x200;
  const unsigned ignore = (mark.flags & kIgnore) != 0 ? kIgnore : FAN_MARK_IGNORED_MASK;
  STASIS_TRY(add(ignore | (mark.flags & FAN_MARK_IGNORED_SURV_MODIFY) | evictable, mark.ignored));
  return add(evictable, mark.mask);
}

Result<void> restore_mark(int group, const FanotifyMarkRecord& mark, const RestartContext& ctx) {
  const bool whole = mark.object != MarkedObject::kFile;
  const auto opened = ctx.open_path(mark.path, whole ? O_PATH : O_PATH | O_NOFOLLOW);
  if (!opened && opened.error().code() == Errc::kFileMissing && ctx.policy.files == FilePolicy::kRelaxed) {
    log::info("fanotify", "{} is gone and no longer watched", mark.path);
    return {};
  }
  if (!opened) return Error(opened.error()).note("the program watches this file").with_help("put it back");
  const auto rights = STASIS_TRY(ctx.take_rights());
  return add_mark(group, mark, opened->get());
}

// What the restart itself did to the marked files.
Result<void> drain(int fd) {
  while (STASIS_TRY(bytes_waiting(fd)) > 0) {
    alignas(::fanotify_event_metadata) std::byte events[16 * 1024];
    const ssize_t got = ::read(fd, events, sizeof events);
    if (got < 0) return Error::from_errno(errno, "read fanotify events");
    auto left = static_cast<std::size_t>(got);
    for (auto* event = reinterpret_cast<::fanotify_event_metadata*>(events); FAN_EVENT_OK(event, left);
         event = FAN_EVENT_NEXT(event, left)) {
      if (event->fd >= 0) ::close(event->fd);
    }
  }
  return {};
}

Result<void> check(const FanotifyRecord& record) {
  for (const FanotifyMarkRecord& mark : record.marks) {
    const bool good = mark.path.starts_with('/') && mark.path.find('\0') == std::string::npos &&
                      (mark.flags & ~kMarkFlags) == 0 && ((mark.mask | mark.ignored) & kQuestions) == 0;
    if (!good) return Error(Errc::kBadImage, "a fanotify mark is impossible");
  }
  return {};
}

Result<UniqueFd> make_group(const FanotifyRecord& record) {
  std::optional<kernel::WithoutCapability> plain;
  if (!record.privileged) plain.emplace(STASIS_TRY(kernel::WithoutCapability::take(CAP_SYS_ADMIN)));
  // The kernel goes on telling with which flags; parking makes it close-on-exec anyhow.
  UniqueFd fd(::fanotify_init(record.group_flags, record.event_flags));
  if (fd) return fd;
  return with_capability(Error::from_errno(errno, "make a fanotify group"));
}

}  // namespace

bool claims_fanotify(const OpenFile& file, const OpenFileTable&) { return file.link == "anon_inode:[fanotify]"; }

std::optional<Obstacle> fanotify_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  const auto group = parse_fanotify_group(file.info);
  if (!group) return file.obstacle(group.error().code(), group.error().message());
  const auto refuse = [&](std::string why, std::string help = {}) {
    return file.obstacle(Errc::kUnsupportedObject, std::move(why), std::move(help));
  };
  if ((group->flags & kMountIds) != 0) return refuse("a fanotify group that watches for mounts can't be saved");
  for (const FanotifyMark& mark : group->marks) {
    if ((mark.file.mask & kQuestions) == 0 && (mark.flags & ~kMarkFlags) == 0) continue;
    return refuse("a fanotify group can't be saved while others ask it for permission",
                  "let the program remove its permission marks first");
  }
  const auto paths = paths_of(file, *group, tree);
  if (const auto nowhere = std::ranges::find(paths, ""); nowhere != paths.end()) {
    const FanotifyMark& mark = group->marks[static_cast<std::size_t>(nowhere - paths.begin())];
    return refuse(fmt::format("it watches {}, and no path was found that leads to it", name_of(mark)),
                  ::geteuid() == 0 ? "" : "root can find it");
  }
  const auto waiting = file.held ? bytes_waiting(file.held.get()) : Result<int>(0);
  if (!waiting || *waiting == 0) return std::nullopt;
  return refuse("unread events wait in a fanotify group, which can't be put back",
                "try again in a moment, when the program has read them");
}

Result<void> checkpoint_fanotify(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const FanotifyGroup group = STASIS_TRY(parse_fanotify_group(file.info));
  FanotifyRecord record{.flags = file.info.flags,
                        .group_flags = group.flags,
                        .event_flags = group.event_flags,
                        .privileged = is_privileged(file, group),
                        .marks = {}};
  auto paths = paths_of(file, group, ctx.files);
  for (std::size_t i = 0; i < group.marks.size(); ++i) {
    const FanotifyMark& mark = group.marks[i];
    record.marks.push_back({.object = mark.object,
                            .flags = mark.flags,
                            .mask = mark.file.mask,
                            .ignored = mark.ignored,
                            .path = std::move(paths[i])});
  }
  return ctx.write_object(ref, kind::kFanotify, record);
}

Result<void*> restore_fanotify(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  FanotifyRecord record = STASIS_TRY(ctx.image.read<FanotifyRecord>());
  STASIS_TRY(check(record));
  UniqueFd made = STASIS_TRY(make_group(record));
  STASIS_TRY(set_status_flags(made.get(), record.flags));
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(ctx.park(std::move(made)));
  UniqueFd own = STASIS_TRY(ctx.park_duplicate(file->fd.get()));
  // Put off twice, as of inotify: other works still touch files.
  auto last = [&ctx, record = std::move(record), own = std::move(own)]() -> Result<void> {
    // The oldest last: the kernel tells the newest first.
    for (auto mark = record.marks.rbegin(); mark != record.marks.rend(); ++mark) {
      STASIS_TRY(restore_mark(own.get(), *mark, ctx));
    }
    return drain(own.get());
  };
  STASIS_TRY(ctx.deferred.add([&ctx, last = std::move(last)]() mutable { return ctx.deferred.add(std::move(last)); }));
  return to_object(std::move(file));
}

}  // namespace stasis
