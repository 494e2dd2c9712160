// SPDX-License-Identifier: Apache-2.0
#include "resource/timer/process_timers.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernel/prctl.h"
#include "kernel/without.h"

namespace stasis {
namespace {

constexpr std::int64_t kMicros = 1'000'000;
constexpr std::int64_t kNanos = 1'000'000'000;

// CPU-time clocks (include/linux/posix-timers.h): ~pid << 3 | per-thread 4 | kind 0-2; kind 3 is a clock device.
constexpr std::int32_t kPerThread = 4;
constexpr std::int32_t kClockKind = 3;
std::int32_t clock_pid(std::int32_t clock) { return ~(clock >> 3); }

// struct sigevent as the kernel has it.
struct KernelSigevent {
  std::uint64_t value = 0;
  std::int32_t signal = 0;
  std::int32_t notify = 0;
  std::int32_t thread = 0;
  std::array<std::int32_t, 11> padding{};
};
static_assert(sizeof(KernelSigevent) == sizeof(sigevent));

static_assert(sizeof(KernelTimes) == sizeof(itimerspec) && sizeof(KernelTimes) == sizeof(itimerval));

// Read once from memory that the target shares; nonsense becomes something harmless.
std::uint64_t joined(std::int64_t seconds, std::int64_t fraction, std::int64_t per_second) {
  if (seconds < 0 || fraction < 0 || fraction >= per_second) return 0;
  const std::int64_t most = std::numeric_limits<std::int64_t>::max() / per_second - 1;
  return static_cast<std::uint64_t>(std::min(seconds, most) * per_second + fraction);
}

KernelTimes split(std::uint64_t remaining, std::uint64_t interval, std::int64_t per_second) {
  const auto unit = static_cast<std::uint64_t>(per_second);
  return {.interval_seconds = static_cast<std::int64_t>(interval / unit),
          .interval_fraction = static_cast<std::int64_t>(interval % unit),
          .value_seconds = static_cast<std::int64_t>(remaining / unit),
          .value_fraction = static_cast<std::int64_t>(remaining % unit)};
}

void restore_interval_timer(int which, std::string_view name, const IntervalTimer& timer, Batch& batch,
                            BatchChecks& checks) {
  if (timer == IntervalTimer{}) return;
  // This one, when periodic, stands still between its end and the moment when its signal is taken: it ends at once.
  const bool ended = which == ITIMER_REAL && timer.remaining == 0;
  const auto times = batch.put(split(ended ? 1 : timer.remaining, timer.interval, kMicros));
  checks.add(batch.call(SYS_setitimer, which, times, 0), fmt::format("setting the interval timer {}", name));
}

Error bad_timer(const PosixTimerState& timer, std::string_view why) {
  return Error(Errc::kBadImage, fmt::format("POSIX timer {}: {}", timer.id, why));
}

Result<void> check_fields(const std::vector<PosixTimerState>& timers) {
  std::int64_t last = -1;
  for (const PosixTimerState& timer : timers) {
    if (timer.id <= last) return bad_timer(timer, "ids are not ascending");
    if (timer.notify < 0 || timer.notify > (SIGEV_THREAD | SIGEV_THREAD_ID))
      return bad_timer(timer, "unknown notification");
    if (timer.signal < 0 || timer.signal > 64) return bad_timer(timer, "no such signal");
    last = timer.id;
  }
  return {};
}

// Appends calls that use up the ids below `id`, of which `next` is the next to be given out.
void skip_ids(std::int32_t next, std::int32_t id, const GateValue<std::int32_t>& unused, Batch& batch,
              BatchChecks& checks) {
  const auto silent = batch.put(KernelSigevent{.notify = SIGEV_NONE});
  for (; next < id; ++next) {
    batch.call(SYS_timer_create, CLOCK_MONOTONIC, silent, unused);
    checks.add(batch.call(SYS_timer_delete, next), "counting up to a timer id");
  }
}

void restore_posix_timer(const PosixTimerState& timer, Batch& batch, BatchChecks& checks) {
  KernelSigevent event{
      .value = timer.value, .signal = timer.signal, .notify = timer.notify, .thread = timer.thread.value()};
  const bool to_thread = (timer.notify & SIGEV_THREAD_ID) != 0;
  // Its thread is gone: it still runs, but signals nobody.
  if (to_thread && !timer.thread) event = {.value = timer.value, .notify = SIGEV_NONE};
  const auto id = batch.put(timer.id);
  const std::string what = fmt::format("creating POSIX timer {} (clock {})", timer.id, timer.clock);
  checks.add(batch.call(SYS_timer_create, timer.clock, batch.put(event), id), what,
             timer.clock == CLOCK_REALTIME_ALARM || timer.clock == CLOCK_BOOTTIME_ALARM ? "CAP_WAKE_ALARM" : "");
  if (timer.remaining == 0 && timer.interval == 0) return;
  const auto times = batch.put(split(timer.remaining, timer.interval, kNanos));
  // Fails with EINVAL, too, if the id came out differently.
  checks.add(batch.call(SYS_timer_settime, timer.id, 0, times, 0), fmt::format("setting POSIX timer {}", timer.id));
}

Obstacle obstacle(HostPid pid, const kernel::PosixTimer& timer, std::string why) {
  return {.code = Errc::kUnsupportedObject,
          .pid = pid,
          .object = fmt::format("POSIX timer {}", timer.id),
          .why = std::move(why),
          .help = {}};
}

}  // namespace

TimersQuery::TimersQuery(std::vector<kernel::PosixTimer> posix, Batch& batch) : listed_(std::move(posix)) {
  std::ranges::sort(listed_, {}, &kernel::PosixTimer::id);
  interval_timers_ = batch.array<KernelTimes>(3);
  posix_timers_ = batch.array<KernelTimes>(listed_.size());
  first_ = batch.call(SYS_getitimer, ITIMER_REAL, interval_timers_);
  batch.call(SYS_getitimer, ITIMER_VIRTUAL, interval_timers_.remote + sizeof(KernelTimes));
  batch.call(SYS_getitimer, ITIMER_PROF, interval_timers_.remote + 2 * sizeof(KernelTimes));
  for (std::size_t i = 0; i < listed_.size(); ++i) {
    batch.call(SYS_timer_gettime, listed_[i].id, posix_timers_.remote + i * sizeof(KernelTimes));
    batch.call(SYS_timer_getoverrun, listed_[i].id);
  }
}

Result<ProcessTimers> TimersQuery::take(const Batch& batch, const ImagePidOf& image_pid_of) const {
  ProcessTimers timers;
  const std::array<IntervalTimer*, 3> targets{&timers.real, &timers.virt, &timers.prof};
  for (std::size_t i = 0; i < targets.size(); ++i) {
    STASIS_TRY(batch.check(first_ + i, "getitimer"));
    const KernelTimes times = interval_timers_.local[i];
    *targets[i] = {.remaining = joined(times.value_seconds, times.value_fraction, kMicros),
                   .interval = joined(times.interval_seconds, times.interval_fraction, kMicros)};
  }
  for (std::size_t i = 0; i < listed_.size(); ++i) {
    const kernel::PosixTimer& listed = listed_[i];
    const std::size_t call = first_ + targets.size() + 2 * i;
    STASIS_TRY(batch.check(call, fmt::format("timer_gettime of POSIX timer {}", listed.id)));
    const KernelTimes times = posix_timers_.local[i];
    PosixTimerState state{.id = listed.id,
                          .clock = listed.clock_id,
                          .signal = listed.signal,
                          .notify = listed.notify,
                          .value = listed.value,
                          .remaining = joined(times.value_seconds, times.value_fraction, kNanos),
                          .interval = joined(times.interval_seconds, times.interval_fraction, kNanos),
                          .overrun = static_cast<std::uint32_t>(std::max<std::int64_t>(batch.result(call + 1), 0))};
    if ((listed.notify & SIGEV_THREAD_ID) != 0 && listed.target != 0) {
      const std::optional<ImagePid> thread = image_pid_of(HostPid(listed.target));
      if (!thread)
        return Error(Errc::kUnsupportedObject, fmt::format("POSIX timer {} signals thread {}, which is not in the tree",
                                                           listed.id, listed.target));
      state.thread = *thread;
    }
    timers.posix.push_back(state);
  }
  return timers;
}

bool will_be_sent_again(const siginfo_t& signal, const ProcessTimers& timers) {
  if (signal.si_signo == SIGALRM && signal.si_code == SI_KERNEL) return timers.real.remaining != 0;
  if (signal.si_code != SI_TIMER) return false;
  const auto timer = std::ranges::find(timers.posix, signal.si_timerid, &PosixTimerState::id);
  return timer != timers.posix.end() && timer->remaining != 0;
}

TimerIds probe_timer_ids() {
  if (kernel::without("timer_restore_ids")) return TimerIds::kCount;
  return ::prctl(kernel::kTimerCreateRestoreIds, kernel::kTimerRestoreIdsGet, 0, 0, 0) >= 0 ? TimerIds::kRestore
                                                                                            : TimerIds::kCount;
}

Result<void> restore_timers(const ProcessTimers& timers, TimerIds ids, Batch& batch, BatchChecks& checks) {
  STASIS_TRY(check_fields(timers.posix));
  const std::size_t count = timers.posix.size();
  const auto skipped = count == 0 || ids == TimerIds::kRestore ? 0 : static_cast<std::size_t>(timers.posix.back().id);
  if (!batch.has_room(8 + 2 * skipped, 240 * count + 64 * count + 256)) {
    if (skipped != 0)
      return Error(Errc::kKernelFeature, fmt::format("POSIX timer id {} is too high to be counted to", skipped))
          .with_help("Linux 6.15 can give a timer its id");
    return Error(Errc::kOverflow, fmt::format("{} POSIX timers are too many for one batch", count));
  }
  if (count != 0 && ids == TimerIds::kRestore) {
    checks.add(batch.call(SYS_prctl, kernel::kTimerCreateRestoreIds, kernel::kTimerRestoreIdsOn, 0, 0, 0),
               "asking for given timer ids");
  }
  const auto unused = batch.array<std::int32_t>(1);
  std::int32_t next = 0;
  for (const PosixTimerState& timer : timers.posix) {
    if (ids == TimerIds::kCount) skip_ids(next, timer.id, unused, batch, checks);
    restore_posix_timer(timer, batch, checks);
    next = timer.id + 1;
  }
  if (count != 0 && ids == TimerIds::kRestore) {
    checks.add(batch.call(SYS_prctl, kernel::kTimerCreateRestoreIds, kernel::kTimerRestoreIdsOff, 0, 0, 0),
               "asking for timer ids as usual");
  }
  restore_interval_timer(ITIMER_VIRTUAL, "ITIMER_VIRTUAL", timers.virt, batch, checks);
  restore_interval_timer(ITIMER_PROF, "ITIMER_PROF", timers.prof, batch, checks);
  restore_interval_timer(ITIMER_REAL, "ITIMER_REAL", timers.real, batch, checks);
  return {};
}

Obstacles find_timer_obstacles(HostPid pid, const std::vector<kernel::PosixTimer>& timers,
                               const std::vector<ImagePid>& tids) {
  Obstacles found;
  if (timers.size() > kMaxPosixTimers) {
    found.push_back({.code = Errc::kUnsupportedObject,
                     .pid = pid,
                     .object = fmt::format("{} POSIX timers", timers.size()),
                     .why = fmt::format("at most {} can be saved", kMaxPosixTimers),
                     .help = {}});
  }
  for (const kernel::PosixTimer& timer : timers) {
    const std::int32_t clock = timer.clock_id;
    if (clock == CLOCK_THREAD_CPUTIME_ID ||
        (clock < 0 && (clock & kClockKind) != kClockKind && clock_pid(clock) == 0 && (clock & kPerThread) != 0)) {
      if (tids.size() > 1)
        found.push_back(
            obstacle(pid, timer, "runs on the CPU time of one of several threads; the kernel does not say which"));
    } else if (clock < 0 && (clock & kClockKind) == kClockKind) {
      found.push_back(obstacle(pid, timer, "runs on a clock device"));
    } else if (clock < 0 && clock_pid(clock) != 0 &&
               std::ranges::find(tids, ImagePid(clock_pid(clock))) == tids.end()) {
      found.push_back(obstacle(pid, timer, fmt::format("runs on the CPU time of process {}", clock_pid(clock))));
    }
  }
  return found;
}

}  // namespace stasis
