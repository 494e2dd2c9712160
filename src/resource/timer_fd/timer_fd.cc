// SPDX-License-Identifier: Apache-2.0
#include "resource/timer_fd/timer_fd.h"

#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kMaxTime = std::uint64_t{1} << 62;
constexpr unsigned long kSetTicks = _IOW('T', 0, std::uint64_t);  // TFD_IOC_SET_TICKS, CONFIG_CHECKPOINT_RESTORE
constexpr std::uint32_t kCancelOnSet = 2;                         // TFD_TIMER_CANCEL_ON_SET

std::uint64_t to_ns(const timespec& t) {
  return static_cast<std::uint64_t>(t.tv_sec) * kSecond + static_cast<std::uint64_t>(t.tv_nsec);
}
timespec to_timespec(std::uint64_t ns) { return {static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)}; }

Result<std::uint64_t> now(clockid_t clock) {
  timespec t{};
  if (::clock_gettime(clock, &t) != 0) return Error::from_errno(errno, "read a clock");
  return to_ns(t);
}

Result<kernel::FdInfo> own_fdinfo(int fd) {
  return kernel::parse_fdinfo(STASIS_TRY(read_file(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", fd))));
}

Result<void> check(const TimerFdRecord& record) {
  if (record.remaining_ns > kMaxTime || record.interval_ns > kMaxTime || record.wall_time_ns < 0 ||
      (record.settime_flags & ~(std::uint32_t{TFD_TIMER_ABSTIME} | kCancelOnSet)) != 0) {
    return Error(Errc::kBadImage, "a timerfd with impossible times");
  }
  return {};
}

Result<void> arm(const TimerFdRecord& record, int fd) {
  itimerspec times{.it_interval = to_timespec(record.interval_ns), .it_value = to_timespec(record.remaining_ns)};
  if (record.keeps_wall_time()) {
    times.it_value = to_timespec(static_cast<std::uint64_t>(record.wall_time_ns));
  } else if ((record.settime_flags & TFD_TIMER_ABSTIME) != 0 && record.remaining_ns != 0) {
    times.it_value = to_timespec(STASIS_TRY(now(record.clock)) + record.remaining_ns);
  }
  if (::timerfd_settime(fd, static_cast<int>(record.settime_flags), &times, nullptr) != 0) {
    return Error::from_errno(errno, "set a timerfd");
  }
  if (record.expirations == 0 || ::ioctl(fd, kSetTicks, &record.expirations) == 0) return {};
  return Error::from_errno(errno, "set the expirations of a timerfd")
      .with_code(Errc::kKernelFeature)
      .with_help("a kernel with CONFIG_CHECKPOINT_RESTORE can do it");
}

}  // namespace

bool TimerFdRecord::keeps_wall_time() const {
  return clock == CLOCK_REALTIME && (settime_flags & TFD_TIMER_ABSTIME) != 0 && remaining_ns != 0;
}

bool claims_timer_fd(const OpenFile& file, const OpenFileTable&) { return file.link == "anon_inode:[timerfd]"; }

Result<void> checkpoint_timer_fd(void* context, ObjRef ref, void* object) {
  const OpenFile& file = *static_cast<OpenFile*>(object);
  // Asking counts the expirations of an interval timer up to now; only then does /proc tell all of them.
  itimerspec times{};
  if (::timerfd_gettime(file.held.get(), &times) != 0) return Error::from_errno(errno, "ask a timerfd");
  const kernel::FdInfo info = STASIS_TRY(own_fdinfo(file.held.get()));
  TimerFdRecord record{
      .remaining_ns = to_ns(times.it_value), .interval_ns = to_ns(times.it_interval), .flags = file.info.flags};
  record.clock = STASIS_TRY(fdinfo_number<std::int32_t>(info, "clockid"));
  record.settime_flags = STASIS_TRY(fdinfo_number<std::uint32_t>(info, "settime flags", 8));
  record.expirations = STASIS_TRY(fdinfo_number<std::uint64_t>(info, "ticks"));
  if (record.keeps_wall_time()) {
    const std::uint64_t wall = STASIS_TRY(now(CLOCK_REALTIME));
    record.wall_time_ns = static_cast<std::int64_t>(wall + record.remaining_ns);
  }
  return CheckpointContext::of(context).write_object(ref, kind::kTimerFd, record);
}

Result<void*> restore_timer_fd(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const TimerFdRecord record = STASIS_TRY(ctx.image.read<TimerFdRecord>());
  STASIS_TRY(check(record));
  UniqueFd fd(::timerfd_create(record.clock, TFD_CLOEXEC));
  if (!fd) {
    const bool alarm = errno == EPERM;
    Error error = Error::from_errno(errno, fmt::format("make a timerfd on clock {}", record.clock));
    if (!alarm) return error;
    return std::move(error).with_code(Errc::kMissingCapability).with_help("needs CAP_WAKE_ALARM");
  }
  STASIS_TRY(set_status_flags(fd.get(), record.flags));
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  // Armed at the very end, so that making the processes takes none of its time.
  if (record.remaining_ns != 0 || record.expirations != 0 || record.settime_flags != 0) {
    UniqueFd own = STASIS_TRY(ctx.park_duplicate(file->fd.get()));
    STASIS_TRY(ctx.deferred.add([record, own = std::move(own)] { return arm(record, own.get()); }));
  }
  return to_object(std::move(file));
}

}  // namespace stasis
