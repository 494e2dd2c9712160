// SPDX-License-Identifier: Apache-2.0
// futex(2): the wait and the wake that the clocks, locks and work queues are built from, and a lock of one word.
#pragma once

#include <atomic>
#include <cstdint>

namespace stasis::detail {

// Sleeps while `word` == `expected`. Returns at once if it is not, after a wake, or for no reason.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) noexcept;
// The same until CLOCK_MONOTONIC reads `deadline_ns` at the latest.
void futex_wait_until(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t deadline_ns) noexcept;
// Wakes up to `count` sleepers. The word itself is not accessed by this call, and may be gone.
void futex_wake(std::atomic<std::uint32_t>& word, int count) noexcept;

// Tells the CPU that this is a spin loop.
inline void cpu_relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Mutual exclusion in one word (0 free, 1 held, 2 held and waited for; U. Drepper, "Futexes Are Tricky", 2011). Held
// for tens of nanoseconds, so a short spin precedes the sleep. Satisfies BasicLockable; no owner, not recursive.
class FutexLock {
 public:
  void lock() noexcept {
    std::uint32_t free = 0;
    if (!word_.compare_exchange_strong(free, 1, std::memory_order_acquire, std::memory_order_relaxed)) lock_slow();
  }
  void unlock() noexcept {
    if (word_.exchange(0, std::memory_order_release) == 2) futex_wake(word_, 1);
  }

 private:
  void lock_slow() noexcept;
  std::atomic<std::uint32_t> word_{0};
};

}  // namespace stasis::detail
