// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/sleep_start.h"

#include <algorithm>

namespace stasis {

std::optional<SleepSigns::TimePoint> start_of_sleep(const SleepSigns& signs) {
  // A thread that has gone to sleep may stay queued for a while, and be moved to another CPU meanwhile (seen on
  // Linux 6.18): what it had of the old CPU's clock is forgotten.
  if (signs.exec_start_ns == 0) return std::nullopt;
  SleepSigns::TimePoint since = signs.clock_zero + std::chrono::nanoseconds(signs.exec_start_ns);
  // The clock stands still while the hypervisor or interrupts have the CPU: it says more of the time before it was read
  // than of the time after it.
  if (since > signs.clock_read) since = signs.now;
  return std::min(std::max(since, signs.thread_start), signs.now);
}

bool plausible(SleepSigns::TimePoint since, SleepSigns::TimePoint now, std::chrono::nanoseconds timeout) {
  constexpr std::chrono::milliseconds kLateTimer(200);  // poll(2) takes up to 100 ms of slack
  return now - since <= timeout + kLateTimer;
}

}  // namespace stasis
