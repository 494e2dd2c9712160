// SPDX-License-Identifier: Apache-2.0
// A relative time-out that the kernel itself would not carry over an interruption (rt_sigtimedwait, semtimedop,
// epoll_wait end with EINTR) is used up across freezes: ten freezes at half the time-out can't keep the call waiting.
// The runner counts its freezes in files; a call that started anew each time would see the last of them. scenario:
// modes=plain,freezes
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>

#include "scenario.h"

namespace {

int freezes() {
  int count = 0;
  while (scenario::exists(scenario::path("frozen." + std::to_string(count)))) ++count;
  return count;
}

std::atomic<bool> started = false;
std::atomic<long> result = 0;
std::atomic<int> error = 0;
std::atomic<int> freezes_seen = -1;
std::atomic<std::int64_t> waited = 0;

void* wait_for_signal(void*) {
  const std::uint64_t set = std::uint64_t{1} << (SIGUSR2 - 1);
  const timespec one_second = {1, 0};
  const std::int64_t start = scenario::now_ns();
  started = true;
  result = syscall(SYS_rt_sigtimedwait, &set, nullptr, &one_second, 8);
  error = errno;
  waited = scenario::now_ns() - start;
  freezes_seen = freezes();
  return nullptr;
}

}  // namespace

int main() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  pthread_t thread{};
  pthread_create(&thread, nullptr, wait_for_signal, nullptr);
  while (!started) scenario::pause_ms(1);

  scenario::ready_and_wait();

  pthread_join(thread, nullptr);
  CHECK(result == -1 && error == EAGAIN, "rt_sigtimedwait returned %ld (%s), not its time-out", result.load(),
        std::strerror(error));
  CHECK(waited >= 1000000000, "it waited %.3f s of 1 s", static_cast<double>(waited) / 1e9);
  CHECK(freezes_seen <= 6, "it waited through %d freezes half a second apart", freezes_seen.load());
  return scenario::finish();
}
