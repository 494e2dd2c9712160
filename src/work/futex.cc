// SPDX-License-Identifier: Apache-2.0
#include "work/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace stasis::detail {
namespace {

constexpr int kSpins = 40;
constexpr std::int64_t kNsPerSecond = 1'000'000'000;

}  // namespace

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wait_until(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t deadline_ns) noexcept {
  if (deadline_ns < 0) deadline_ns = 0;
  const timespec deadline{.tv_sec = deadline_ns / kNsPerSecond, .tv_nsec = deadline_ns % kNsPerSecond};
  // The BITSET form, unlike FUTEX_WAIT, takes an absolute time.
  ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, expected, &deadline, nullptr, FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(std::atomic<std::uint32_t>& word, int count) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

void FutexLock::lock_slow() noexcept {
  for (int i = 0; i < kSpins; ++i) {
    cpu_relax();
    std::uint32_t free = 0;
    if (word_.load(std::memory_order_relaxed) == 0 &&
        word_.compare_exchange_strong(free, 1, std::memory_order_acquire, std::memory_order_relaxed)) {
      return;
    }
  }
  while (word_.exchange(2, std::memory_order_acquire) != 0) futex_wait(word_, 2);
}

}  // namespace stasis::detail
