// SPDX-License-Identifier: Apache-2.0
#include "stasis/clock.h"

#include <climits>
#include <ctime>
#include <mutex>
#include <new>

#include "stasis/list.h"
#include "work/futex.h"

namespace stasis {
namespace {

class SteadyClock final : public Clock {
 public:
  Time now() const noexcept override {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return Time(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
  }
  void sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time deadline) noexcept override {
    if (deadline == kNever) {
      detail::futex_wait(word, expected);
    } else {
      detail::futex_wait_until(word, expected, deadline.time_since_epoch().count());
    }
  }
};

}  // namespace

void Clock::wake_all(std::atomic<std::uint32_t>& word) noexcept { detail::futex_wake(word, INT_MAX); }

Clock& steady_clock() noexcept {
  // Never destroyed: threads may sleep on it until the process ends.
  alignas(SteadyClock) static unsigned char storage[sizeof(SteadyClock)];
  static SteadyClock& clock = *new (storage) SteadyClock;
  return clock;
}

struct ManualClock::Sleepers {
  struct Sleeper {
    std::atomic<std::uint32_t>* word = nullptr;
    std::uint32_t expected = 0;
    ListHook hook{};
  };
  std::mutex mutex;
  List<Sleeper, &Sleeper::hook> asleep;
};

ManualClock::ManualClock(Time start)
    : now_(start.time_since_epoch().count()), sleepers_(std::make_unique<Sleepers>()) {}

ManualClock::~ManualClock() = default;

Clock::Time ManualClock::now() const noexcept { return Time(Duration(now_.load(std::memory_order_acquire))); }

// advance() changes the word of every registered sleeper, so between the look at the time and the wait nothing is lost:
// the sleeper is registered before it looks.
void ManualClock::sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected, Time deadline) noexcept {
  Sleepers::Sleeper self{.word = &word, .expected = expected};
  {
    const std::lock_guard lock(sleepers_->mutex);
    if (now() >= deadline) return;
    sleepers_->asleep.push_back(self);
  }
  detail::futex_wait(word, expected);
  const std::lock_guard lock(sleepers_->mutex);
  sleepers_->asleep.erase(self);
}

void ManualClock::advance(Duration by) noexcept {
  const std::lock_guard lock(sleepers_->mutex);
  now_.store(after(now(), by).time_since_epoch().count(), std::memory_order_release);
  for (Sleepers::Sleeper& sleeper : sleepers_->asleep) {
    // Not a plain flip: a second advance() before the sleeper runs would flip it back.
    std::uint32_t expected = sleeper.expected;
    sleeper.word->compare_exchange_strong(expected, expected ^ kClockBit, std::memory_order_seq_cst);
    detail::futex_wake(*sleeper.word, INT_MAX);
  }
}

}  // namespace stasis
