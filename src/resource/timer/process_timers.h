// SPDX-License-Identifier: Apache-2.0
// ProcessTimers: the interval timers (man 2 setitimer) and POSIX timers (man 2 timer_create) of a process.
//
// Checkpoint: /proc/PID/timers lists the POSIX timers; the process itself is asked how long each has to go. All times
// are remaining times at the freeze and count on from there after the restart. The kernel does not tell whether a timer
// was set to an absolute time: one on CLOCK_REALTIME fires after its remaining time, too.
//
// Restart: after all threads exist (SIGEV_THREAD_ID names them) and after pending signals; in the last batch of the
// process, since from then on the timers run. Pids are those of the tree's own pid namespace.
//
// Not restored: the overrun count of a signal that was already delivered (kept for inspection).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/ids.h"
#include "kernel/proc_dir.h"
#include "resource/obstacle.h"
#include "stasis/image_schema.h"
#include "stasis/result.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

// More than anybody has, and few enough for one batch.
inline constexpr std::size_t kMaxPosixTimers = 2000;

// One interval timer, times in microseconds. Remaining 0: not armed.
struct IntervalTimer {
  std::uint64_t remaining = 0;
  std::uint64_t interval = 0;
  bool operator==(const IntervalTimer&) const = default;
  static constexpr auto fields() {
    return std::tuple{field<1>("remaining_us", &IntervalTimer::remaining),
                      field<2>("interval_us", &IntervalTimer::interval)};
  }
};

// One POSIX timer, times in nanoseconds. Remaining 0: not armed.
struct PosixTimerState {
  std::int32_t id = 0;
  std::int32_t clock = 0;  // CLOCK_*, or the CPU-time clock of a pid
  std::int32_t signal = 0;
  std::int32_t notify = 0;  // SIGEV_*
  ImagePid thread;          // with SIGEV_THREAD_ID; 0: that thread is gone
  std::uint64_t value = 0;  // sigev_value
  std::uint64_t remaining = 0;
  std::uint64_t interval = 0;
  std::uint32_t overrun = 0;

  bool operator==(const PosixTimerState&) const = default;
  static constexpr auto fields() {
    using T = PosixTimerState;
    return std::tuple{field<1>("id", &T::id),
                      field<2>("clock", &T::clock),
                      field<3>("signal", &T::signal),
                      field<4>("notify", &T::notify),
                      field<5>("thread", &T::thread),
                      field<6>("value", &T::value, Show::kHex),
                      field<7>("remaining_ns", &T::remaining),
                      field<8>("interval_ns", &T::interval),
                      field<9>("overrun", &T::overrun)};
  }
};

struct ProcessTimers {
  IntervalTimer real;
  IntervalTimer virt;
  IntervalTimer prof;
  std::vector<PosixTimerState> posix;  // ascending by id

  bool operator==(const ProcessTimers&) const = default;
  static constexpr auto fields() {
    using T = ProcessTimers;
    return std::tuple{field<1>("real", &T::real), field<2>("virtual", &T::virt), field<3>("prof", &T::prof),
                      field<4>("posix", &T::posix, MaxLength{kMaxPosixTimers})};
  }
};

// struct itimerval (fractions: microseconds) and struct itimerspec (nanoseconds) alike.
struct KernelTimes {
  std::int64_t interval_seconds = 0;
  std::int64_t interval_fraction = 0;
  std::int64_t value_seconds = 0;
  std::int64_t value_fraction = 0;
};

// Of a thread as the coordinator sees it, the number in the tree's own namespace; nothing if it is not in the tree.
using ImagePidOf = std::function<std::optional<ImagePid>(HostPid)>;

// Appends 3 calls and 2 for each POSIX timer to the carrier's batch; take() after it ran. REQUIRES: the process is
// frozen since before /proc/PID/timers was read, and find_timer_obstacles() found nothing.
class TimersQuery {
 public:
  TimersQuery(std::vector<kernel::PosixTimer> posix, Batch& batch);
  Result<ProcessTimers> take(const Batch& batch, const ImagePidOf& image_pid_of) const;

 private:
  std::vector<kernel::PosixTimer> listed_;
  std::size_t first_ = 0;
  GateValue<KernelTimes> interval_timers_;
  GateValue<KernelTimes> posix_timers_;
};

// Of a signal that came after the timers were read: is it from one that will send it again when it is restored?
bool will_be_sent_again(const siginfo_t& signal, const ProcessTimers& timers);

// How timers get their old ids.
enum class TimerIds {
  kRestore,  // prctl(PR_TIMER_CREATE_RESTORE_IDS), Linux 6.15
  kCount,    // by creating and deleting timers up to the id, as a fresh process gives out 0, 1, 2...
};
// What this kernel can; STASIS_WITHOUT=timer_restore_ids makes it kCount.
TimerIds probe_timer_ids();

// Appends what gives a fresh process these timers. Errors, nothing appended: too many for the batch's room (kOverflow);
// an id that is too high to be counted to (kKernelFeature); fields that no kernel wrote (kBadImage).
// Room: 8 calls, 240 bytes for each timer, and with kCount 128 bytes for each id in between.
Result<void> restore_timers(const ProcessTimers& timers, TimerIds ids, Batch& batch, BatchChecks& checks);

// What can't be saved: a timer on another process's CPU clock, on a thread's own CPU clock where there are several
// threads (the kernel does not tell whose), on a clock that is a device, too many timers. `tids`: the process's threads
// in its own pid namespace.
Obstacles find_timer_obstacles(HostPid pid, const std::vector<kernel::PosixTimer>& timers,
                               const std::vector<ImagePid>& tids);

}  // namespace stasis
