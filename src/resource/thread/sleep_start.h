// SPDX-License-Identifier: Apache-2.0
// Since when a thread has been asleep, from what /proc says of it while it is.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace stasis {

struct SleepSigns {
  using TimePoint = std::chrono::steady_clock::time_point;

  std::uint64_t exec_start_ns = 0;  // when it ran last, by the run-queue clock of its CPU
  TimePoint clock_zero;             // when that clock was zero ...
  TimePoint clock_read;             // ... as it was found then
  TimePoint thread_start;           // or a little before it
  TimePoint now;                    // or a little later: the thread was asleep
};

// Never too early, for then the sleep would end before its time; too late where the clock was stopped. Nothing: not
// known.
std::optional<SleepSigns::TimePoint> start_of_sleep(const SleepSigns& signs);

// Can the thread, asleep at `now`, have been so since then in a call with this time-out?
bool plausible(SleepSigns::TimePoint since, SleepSigns::TimePoint now, std::chrono::nanoseconds timeout);

}  // namespace stasis
