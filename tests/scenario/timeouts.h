// SPDX-License-Identifier: Apache-2.0
// For scenarios of relative time-outs that are used up across freezes, made by separate commands or by restarts: ten of
// them at a third of the time-out can't keep a call waiting for longer than one of these thirds beyond its time. The
// runner counts its freezes in files. A call that started anew each time, or forgot all but the last third, would see
// the last of them. How many it may see is what another thread sees when it finds the time over by looking at the
// clock: on a busy machine both are late.
#pragma once

#include <atomic>
#include <deque>
#include <functional>

#include "scenario.h"

namespace scenario {

inline constexpr std::int64_t kSecond = 1000000000;
inline constexpr std::int64_t kTimeout = 3 * kSecond / 2;
inline constexpr timespec the_timeout = {1, 500000000};

inline int freezes() {
  int count = 0;
  while (exists(path("frozen." + std::to_string(count)))) ++count;
  return count;
}

// One call in a thread of its own, with a time-out of kTimeout.
struct TimedCall {
  const char* name;
  std::function<long()> call;
  long expected_result;
  int expected_error;
  std::atomic<bool> started = false;
  long result = 0;
  int error = 0;
  int freezes_seen = -1;
  std::int64_t waited = 0;
  pthread_t thread{};
};

inline void* run_timed(void* argument) {
  auto& call = *static_cast<TimedCall*>(argument);
  const std::int64_t start = now_ns();
  call.started = true;
  errno = 0;
  call.result = call.call();
  call.error = errno;
  call.waited = now_ns() - start;
  call.freezes_seen = freezes();
  return nullptr;
}

// Sees the end of the time by short looks at the clock, which no freeze can make longer than themselves.
struct Watch {
  std::int64_t until = 0;
  int freezes_seen = -1;
  pthread_t thread{};
};

inline void* watch_the_clock(void* argument) {
  auto& watch = *static_cast<Watch*>(argument);
  while (now_ns() < watch.until) pause_ms(1);
  watch.freezes_seen = freezes();
  return nullptr;
}

inline void* sleep_on(void*) {
  for (;;) pause();
}

class TimedCalls {
 public:
  void add(const char* name, long expected_result, int expected_error, std::function<long()> call) {
    calls_.emplace_back(name, std::move(call), expected_result, expected_error);
  }
  void start() {
    for (TimedCall& call : calls_) {
      if (pthread_create(&call.thread, nullptr, run_timed, &call) != 0) {
        broken_setup("pthread_create", __FILE__, __LINE__);
      }
    }
    for (const TimedCall& call : calls_) {
      while (!call.started) pause_ms(1);
    }
    watch_.until = now_ns() + kTimeout;
    if (pthread_create(&watch_.thread, nullptr, watch_the_clock, &watch_) != 0) {
      broken_setup("pthread_create", __FILE__, __LINE__);
    }
    // A process that once had threads and has one left is taken for one that may have semaphores to give back.
    pthread_t other{};
    if (pthread_create(&other, nullptr, sleep_on, nullptr) != 0) broken_setup("pthread_create", __FILE__, __LINE__);
  }
  void check() {
    pthread_join(watch_.thread, nullptr);
    for (TimedCall& call : calls_) {
      pthread_join(call.thread, nullptr);
      CHECK(call.result == call.expected_result && (call.result >= 0 || call.error == call.expected_error),
            "%s returned %ld (%s), not its time-out", call.name, call.result, std::strerror(call.error));
      CHECK(call.waited >= kTimeout - 2000000, "%s waited %.3f s of 1.5 s", call.name,
            static_cast<double>(call.waited) / 1e9);
      // Some more: it is started a moment earlier or later, and the file of a freeze is written a moment after it.
      CHECK(call.freezes_seen <= watch_.freezes_seen + 3, "%s waited through %d freezes half a second apart, not %d",
            call.name, call.freezes_seen, watch_.freezes_seen);
    }
  }

 private:
  std::deque<TimedCall> calls_;
  Watch watch_;
};

}  // namespace scenario
