// SPDX-License-Identifier: Apache-2.0
// TimerWheel: the armed timers of one worker. Insert and erase are O(1); a timer fires in order of its exact time,
// never early.
//
// The problem: most timers (time-outs) are cancelled long before they are due, so arming and cancelling must cost next
// to nothing, and firing a million of them must not pay a cache miss on each of several tree levels. The idea: eight
// levels of 64 buckets. A bucket of level 0 is one tick (2^20 ns, about 1 ms) wide, of level n 64^n ticks. A timer goes
// into the finest level that reaches as far as its time. A bucket is an array of (time, timer), so that due timers are
// found and sorted without touching them, and then fetched ahead. Erasing leaves a hole. When the clock has come to a
// coarse bucket, its rest is spread over the finer levels; there is no tick and no wake-up for that: the caller sleeps
// until next_expiry(). Times are exact: ticks only choose the bucket. (The kernel's wheel, kernel/time/timer.c, instead
// never spreads and fires up to an eighth of the delay late.)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "stasis/work.h"

namespace stasis::detail {

// Not synchronised. Owns no timer: each must be erased or expired before it dies. Times are nanoseconds >= 0 that
// never go back from call to call.
class TimerWheel {
 public:
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

  // A chain of timers through TimerNode::next, in order of expiry.
  struct Chain {
    TimerNode* first = nullptr;
    TimerNode* last = nullptr;
    std::size_t count = 0;
  };

  TimerWheel() = default;
  TimerWheel(const TimerWheel&) = delete;
  TimerWheel& operator=(const TimerWheel&) = delete;

  // Arms a timer that is not armed. `now` matters when the wheel was empty. False: out of memory, nothing was done.
  [[nodiscard]] bool insert(TimerNode& timer, std::int64_t expiry, std::int64_t now) noexcept;
  // Disarms an armed timer.
  void erase(TimerNode& timer) noexcept;
  // Disarms all timers with expiry <= now. Those of equal time come in the order of their insertion if they were
  // armed with equal delays.
  Chain expire(std::int64_t now) noexcept;
  // Disarms all, in no order.
  Chain clear() noexcept;
  // When expire() has something to do next: the time of the earliest timer, or of an erased one before it.
  std::int64_t next_expiry() const noexcept;
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

 private:
  static constexpr unsigned kTickShift = 20;
  static constexpr unsigned kLevelShift = 6;
  static constexpr unsigned kBuckets = 1U << kLevelShift;
  static constexpr unsigned kLevels = 8;
  static_assert(kTickShift + kLevels * kLevelShift >= 63, "every time has a bucket");

  struct Entry {
    std::int64_t expiry;
    TimerNode* timer;  // null: a hole
  };
  struct Bucket {
    std::vector<Entry> entries;
    std::int64_t earliest = kNever;  // no entry is earlier
    std::uint32_t holes = 0;
  };
  struct Level {
    std::uint64_t occupied = 0;  // bit i: buckets[i] has entries
    std::array<Bucket, kBuckets> buckets;
  };

  static std::uint64_t tick_of(std::int64_t time) noexcept { return static_cast<std::uint64_t>(time) >> kTickShift; }
  unsigned level_for(std::uint64_t tick) const noexcept;
  static void grow(std::vector<Entry>& entries);
  bool place(TimerNode& timer, std::int64_t expiry) noexcept;
  void vacate(Level& level, unsigned index) noexcept;
  void compact(Bucket& bucket) noexcept;
  static std::size_t sort_due(Bucket& bucket, std::int64_t now) noexcept;
  void take_due(Level& level, unsigned index, std::int64_t now, Chain& due) noexcept;
  Chain take_due_of_level(unsigned number, std::uint64_t now_tick, std::int64_t now) noexcept;
  void spread(unsigned number, unsigned index) noexcept;

  std::array<std::unique_ptr<Level>, kLevels> levels_;  // made when first needed
  std::uint64_t base_ = 0;                              // tick of the last expire()
  std::size_t size_ = 0;
};

}  // namespace stasis::detail
