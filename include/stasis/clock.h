// SPDX-License-Identifier: Apache-2.0
// Clock: where workers and work queues take their time from. Time is a parameter, so that tests turn it by hand.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>

namespace stasis {

// A clock that never goes back, and that a thread can sleep on. Thread-safe.
//
// Implement it to put a simulation's time under a Worker; otherwise use steady_clock() or a ManualClock.
class Clock {
 public:
  using Duration = std::chrono::nanoseconds;
  // Since an epoch of the clock's own; times of different clocks don't compare.
  using Time = std::chrono::time_point<Clock, Duration>;
  static constexpr Time kNever = Time::max();
  // The bit of a sleeper's word that belongs to the clock: a clock that jumps flips it to end the sleep.
  static constexpr std::uint32_t kClockBit = 0x8000'0000U;

  virtual ~Clock() = default;

  virtual Time now() const noexcept = 0;
  // Sleeps while `word` == `expected`, at most until `deadline`. Whoever changes the word must wake_all() it. May
  // return early without a reason: the caller looks again.
  virtual void sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time deadline) noexcept = 0;

  // Ends every sleep on `word`.
  static void wake_all(std::atomic<std::uint32_t>& word) noexcept;
  // `from` + `delay`, kNever instead of an overflow; a negative delay counts as zero.
  static Time after(Time from, Duration delay) noexcept {
    if (delay <= Duration::zero()) return from;
    return delay > kNever - from ? kNever : from + delay;
  }
};

// CLOCK_MONOTONIC (clock_gettime(2)): stands still while the machine is suspended. Lives as long as the process.
Clock& steady_clock() noexcept;

// A clock that moves only when told to. After advance() every sleeper whose time has come is on its way; a flush() of
// its worker then waits until the timers that fell due have run.
//
//   ManualClock clock;
//   auto worker = Worker::create({.clock = &clock});
//   ...
//   clock.advance(10ms);
class ManualClock final : public Clock {
 public:
  explicit ManualClock(Time start = Time{});
  ~ManualClock() override;
  Time now() const noexcept override;
  void sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time deadline) noexcept override;
  // Moves the clock forward (never back: a negative `by` counts as zero) and wakes all sleepers.
  void advance(Duration by) noexcept;

 private:
  struct Sleepers;
  std::atomic<std::int64_t> now_;
  std::unique_ptr<Sleepers> sleepers_;
};

}  // namespace stasis
