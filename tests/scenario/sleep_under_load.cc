// SPDX-License-Identifier: Apache-2.0
// Many threads sleep while others want all CPUs, so that the kernel moves sleepers about: however often the program is
// restarted meanwhile, no sleep ends before its time.
// scenario: modes=plain,restarts
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <cerrno>

#include "scenario.h"

namespace {

constexpr std::int64_t kSleep = 1500000000;
constexpr std::int64_t kMilli = 1000000;
std::atomic<bool> stop = false;

void work_until(std::int64_t when) {
  while (scenario::now_ns() < when) {
  }
}

void* sleeper(void* argument) {
  const auto number = *static_cast<const int*>(argument);
  int turn = 0;
  do {
    work_until(scenario::now_ns() + (number + turn) % 4 * kMilli);
    const std::int64_t start = scenario::now_ns();
    const timespec time = {kSleep / 1000000000, kSleep % 1000000000};
    const long result = syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &time, nullptr);
    const std::int64_t lasted = scenario::now_ns() - start;
    CHECK_EQ(result, 0);
    CHECK(lasted >= kSleep - kMilli, "sleeper %d, turn %d: a sleep of %lld ns lasted %lld", number, turn,
          static_cast<long long>(kSleep), static_cast<long long>(lasted));
    ++turn;
  } while (!stop);
  return nullptr;
}

// Some are always there to be moved, some come and go.
void* worker(void* argument) {
  const bool pauses = *static_cast<const int*>(argument) % 2 != 0;
  while (!stop) {
    work_until(scenario::now_ns() + 4 * kMilli);
    if (pauses) scenario::pause_ms(1);
  }
  return nullptr;
}

template <std::size_t N>
void start(std::array<pthread_t, N>& threads, std::array<int, N>& numbers, void* (*function)(void*)) {
  for (std::size_t i = 0; i < N; ++i) {
    numbers.at(i) = static_cast<int>(i);
    if (pthread_create(&threads.at(i), nullptr, function, &numbers.at(i)) != 0) {
      scenario::broken_setup("pthread_create", __FILE__, __LINE__);
    }
  }
}

}  // namespace

int main() {
  std::array<pthread_t, 24> sleepers{};
  std::array<int, 24> sleeper_numbers{};
  std::array<pthread_t, 6> workers{};
  std::array<int, 6> worker_numbers{};
  start(workers, worker_numbers, worker);
  start(sleepers, sleeper_numbers, sleeper);
  scenario::ready_and_wait();
  stop = true;
  for (const pthread_t thread : sleepers) pthread_join(thread, nullptr);
  for (const pthread_t thread : workers) pthread_join(thread, nullptr);
  return scenario::finish();
}
