// SPDX-License-Identifier: Apache-2.0
// The one kind of system call that the standard library's part of Stasis makes itself: it must build without
// src/kernel.
#include "work/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace stasis::detail {
namespace {

constexpr int kSpins = 40;
constexpr std::int64_t kNsPerSecond = 1'000'000'000;

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* time) noexcept {
  return ::syscall(SYS_futex, &word, operation, value, time, nullptr, FUTEX_BITSET_MATCH_ANY);  // layers: allow futex
}

}  // namespace

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) noexcept {
  (void)futex(word, FUTEX_WAIT_PRIVATE, expected, nullptr);
}

void futex_wait_until(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t deadline_ns) noexcept {
  if (deadline_ns < 0) deadline_ns = 0;
  const timespec deadline{.tv_sec = deadline_ns / kNsPerSecond, .tv_nsec = deadline_ns % kNsPerSecond};
  // The BITSET form, unlike FUTEX_WAIT, takes an absolute time.
  (void)futex(word, FUTEX_WAIT_BITSET_PRIVATE, expected, &deadline);
}

void futex_wake(std::atomic<std::uint32_t>& word, int count) noexcept {
  (void)futex(word, FUTEX_WAKE_PRIVATE, static_cast<std::uint32_t>(count), nullptr);
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
