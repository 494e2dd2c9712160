// SPDX-License-Identifier: Apache-2.0
#include "resource/inotify/inotify.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/file.h"
#include "base/log.h"
#include "kernel/proc_text.h"
#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

constexpr std::int32_t kMaxNumber = 1 << 22;
constexpr std::uint32_t kMask = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;
constexpr int kEventBytes = sizeof(::inotify_event);

bool parse_watch(std::string_view line, InotifyWatch& watch) {
  bool numbered = false, masked = false;
  for (auto word = kernel::text::take_word(line); !word.empty(); word = kernel::text::take_word(line)) {
    std::string_view key;
    std::string_view value = word;
    if (!kernel::text::take_until(value, ':', key) || !parse_watched_file(key, value, watch)) return false;
    if (key == "wd") numbered = kernel::text::number(value, watch.number, 16) && watch.number > 0;
    masked = masked || key == "mask";
  }
  return numbered && masked;
}

std::vector<std::string> paths_of(const OpenFile& file, std::span<const InotifyWatch> watches,
                                  const OpenFileTable& tree) {
  return find_watched_paths(file, std::vector<WatchedFile>(watches.begin(), watches.end()), tree);
}

Result<int> bytes_waiting(int fd) {
  int bytes = 0;
  if (::ioctl(fd, FIONREAD, &bytes) == 0) return bytes;
  return Error::from_errno(errno, "ask for waiting inotify events");
}

Result<void> drain(int fd) {
  std::array<std::byte, 64 * 1024> events;
  while (STASIS_TRY(bytes_waiting(fd)) > 0) {
    if (::read(fd, events.data(), events.size()) < 0) return Error::from_errno(errno, "read inotify events");
  }
  return {};
}

// Watch descriptors are given out in ascending order: those in between are taken and given back. A failing call says
// in errno why.
bool add_watch(int inotify, const char* path, std::uint32_t mask, std::int32_t number) {
  for (;;) {
    const int got = ::inotify_add_watch(inotify, path, mask);
    if (got < 0) return false;
    if (got == number) return true;
    ::inotify_rm_watch(inotify, got);
    if (got > number) {
      errno = EBUSY;
      return false;
    }
  }
}

// A file of ours whose accesses are seen; those of a memfd are not.
Result<UniqueFd> make_scratch_file() {
  for (const char* const directory : {"/tmp", "/var/tmp", "/dev/shm"}) {
    if (auto file = open_at(AT_FDCWD, directory, O_TMPFILE | O_RDWR, 0600)) return file;
  }
  return Error(Errc::kSystem, "no directory takes a temporary file");
}

// An IN_Q_OVERFLOW, alone: the queue is made to overflow, then all before that is taken out.
Result<void> make_overflow(int inotify) {
  const UniqueFd file = STASIS_TRY(make_scratch_file());
  const int watch =
      ::inotify_add_watch(inotify, fmt::format("/proc/self/fd/{}", file.get()).c_str(), IN_ACCESS | IN_MODIFY);
  if (watch < 0) return Error::from_errno(errno, "watch a file");
  int waiting = 0, before = -1;
  while (waiting != before) {
    before = waiting;
    // Equal events one behind the other would be one.
    for (int i = 0; i < 100; ++i) {
      char byte = 0;
      if (::pwrite(file.get(), &byte, 1, 0) != 1 || ::pread(file.get(), &byte, 1, 0) != 1) {
        return Error::from_errno(errno, "use a temporary file");
      }
    }
    waiting = STASIS_TRY(bytes_waiting(inotify));
  }
  ::inotify_rm_watch(inotify, watch);
  std::array<std::byte, std::size_t{kEventBytes} * 1024> events;
  while (waiting > kEventBytes) {
    const auto part = std::min(static_cast<std::size_t>(waiting - kEventBytes), events.size());
    if (::read(inotify, events.data(), part) <= 0) return Error::from_errno(errno, "read inotify events");
    waiting = STASIS_TRY(bytes_waiting(inotify));
  }
  return {};
}

Result<void> restore_watch(int inotify, const InotifyWatchRecord& watch, const RestartContext& ctx) {
  const auto opened = ctx.open_path(watch.path, O_PATH | O_NOFOLLOW);
  if (!opened && opened.error().code() == Errc::kFileMissing && ctx.policy.files == FilePolicy::kRelaxed) {
    log::info("inotify", "{} is gone and no longer watched", watch.path);
    return {};
  }
  if (!opened) return Error(opened.error()).note("the program watches this file").with_help("put it back");
  const auto rights = STASIS_TRY(ctx.take_rights());
  const std::string path = fmt::format("/proc/self/fd/{}", opened->get());
  if (add_watch(inotify, path.c_str(), watch.mask, watch.number)) return {};
  Error error = Error::from_errno(errno, "watch " + watch.path);
  return error.sys_errno() == ENOSPC ? std::move(error).with_help("raise fs.inotify.max_user_watches") : error;
}

Result<void> restore_watches(int inotify, const InotifyRecord& record, const RestartContext& ctx) {
  for (const InotifyWatchRecord& watch : record.watches) STASIS_TRY(restore_watch(inotify, watch, ctx));
  STASIS_TRY(drain(inotify));
  return record.events_waited ? make_overflow(inotify) : Result<void>();
}

Result<void> check(const InotifyRecord& record) {
  std::int32_t last = 0;
  for (const InotifyWatchRecord& watch : record.watches) {
    const bool good = watch.number > last && watch.number <= kMaxNumber && watch.path.starts_with('/') &&
                      watch.path.find('\0') == std::string::npos && (watch.mask & ~kMask) == 0;
    if (!good) return Error(Errc::kBadImage, fmt::format("inotify watch {} is impossible", watch.number));
    last = watch.number;
  }
  return {};
}

}  // namespace

Result<std::vector<InotifyWatch>> parse_inotify_watches(const kernel::FdInfo& info) {
  std::vector<InotifyWatch> watches;
  std::string_view rest = info.rest;
  while (!rest.empty()) {
    std::string_view line = kernel::text::take_line(rest);
    if (!line.starts_with("inotify ")) continue;
    std::string_view words = line.substr(line.find(' ') + 1);
    InotifyWatch watch;
    if (!parse_watch(words, watch)) return kernel::text::malformed("fdinfo", line);
    watches.push_back(std::move(watch));
  }
  return watches;
}

bool claims_inotify(const OpenFile& file, const OpenFileTable&) { return file.link == "anon_inode:inotify"; }

std::optional<Obstacle> inotify_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  const auto watches = parse_inotify_watches(file.info);
  if (!watches) return file.obstacle(watches.error().code(), watches.error().message());
  const auto paths = paths_of(file, *watches, tree);
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const InotifyWatch& watch = (*watches)[i];
    if (watch.number > kMaxNumber) return file.obstacle(Errc::kUnsupportedObject, "it has had too many watches");
    if (!paths[i].empty()) continue;
    return file.obstacle(Errc::kUnsupportedObject,
                         fmt::format("it watches inode {}, and no path was found that leads to it", watch.id.inode),
                         ::geteuid() == 0 ? "" : "root can find it");
  }
  return std::nullopt;
}

Result<void> checkpoint_inotify(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  InotifyRecord record{.flags = file.info.flags, .watches = {}};
  record.events_waited = STASIS_TRY(bytes_waiting(file.held.get())) > 0;
  const auto watches = STASIS_TRY(parse_inotify_watches(file.info));
  auto paths = paths_of(file, watches, ctx.files);
  for (std::size_t i = 0; i < watches.size(); ++i) {
    record.watches.push_back(
        {.number = watches[i].number, .mask = watches[i].mask & kMask, .path = std::move(paths[i])});
  }
  std::ranges::sort(record.watches, {}, &InotifyWatchRecord::number);
  return ctx.write_object(ref, kind::kInotify, record);
}

Result<void*> restore_inotify(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  InotifyRecord record = STASIS_TRY(ctx.image.read<InotifyRecord>());
  STASIS_TRY(check(record));
  UniqueFd fd(::inotify_init1(IN_CLOEXEC));
  if (!fd) return Error::from_errno(errno, "make an inotify instance").with_help("raise fs.inotify.max_user_instances");
  STASIS_TRY(set_status_flags(fd.get(), record.flags));
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  UniqueFd own = STASIS_TRY(ctx.park_duplicate(file->fd.get()));
  // Put off twice: other works still touch files.
  auto last = [&ctx, record = std::move(record), own = std::move(own)] {
    return restore_watches(own.get(), record, ctx);
  };
  STASIS_TRY(ctx.deferred.add([&ctx, last = std::move(last)]() mutable { return ctx.deferred.add(std::move(last)); }));
  return to_object(std::move(file));
}

}  // namespace stasis
