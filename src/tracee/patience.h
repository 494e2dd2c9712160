// SPDX-License-Identifier: Apache-2.0
// Patience: how long an operation may take, and whether the user has told us to stop.
#pragma once

#include <signal.h>
#include <time.h>

#include <atomic>
#include <chrono>

#include "stasis/result.h"

namespace stasis {

// While one lives, blocking waits of this thread are interrupted (EINTR) a few times a second, so that the caller can
// look at check(). Owned by the operation; one at a time; must be made by the thread that waits.
class Patience {
 public:
  // `cancelled`: set (by a signal handler) when the user wants to stop; may be null, must outlive this.
  Patience(std::chrono::nanoseconds timeout, const std::atomic<bool>* cancelled);
  ~Patience();
  Patience(const Patience&) = delete;
  Patience& operator=(const Patience&) = delete;

  // Errc::kTimeout, Errc::kInterrupted, or nothing.
  Result<void> check() const;
  // From here on check() heeds the user alone.
  void wait_longer() { deadline_ = std::chrono::steady_clock::time_point::max(); }
  // From here on check() never fails: what has begun is carried through.
  void carry_through() { patient_for_ever_ = true; }

 private:
  std::chrono::steady_clock::time_point deadline_;
  std::chrono::nanoseconds timeout_;
  const std::atomic<bool>* cancelled_;
  bool patient_for_ever_ = false;
  timer_t timer_{};
  bool armed_ = false;
  struct sigaction previous_{};
};

}  // namespace stasis
