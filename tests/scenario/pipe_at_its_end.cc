// SPDX-License-Identifier: Apache-2.0
// scenario: modes=plain,leave,restart,user-leave,user,freezes,failures alone
// (Alone: whoever reads /proc/PID/fd of another process holds its files for that moment, and other tests' stasis do.)
// Objects go first: whatever Stasis held of the program's files is dropped before the program runs again, whether the
// operation succeeded or failed. Two threads make pipes without rest, close one end and look at once from the other: a
// pipe whose last writer has closed is at its end, one whose last reader has closed is broken. A reference of somebody
// else's, held an instant too long, would show as EAGAIN, or as a write that succeeds.
#include <signal.h>

#include <array>
#include <atomic>

#include "scenario.h"

namespace {

std::atomic<bool> stop = false;
std::array<std::atomic<long>, 2> rounds{};

void* close_writers(void*) {
  for (; !stop; ++rounds[0]) {
    std::array<int, 2> ends{};
    if (!CHECK(pipe2(ends.data(), O_NONBLOCK) == 0, "pipe2: %s", std::strerror(errno))) return nullptr;
    close(ends[1]);
    char byte = 0;
    const ssize_t got = read(ends[0], &byte, 1);
    if (!CHECK(got == 0, "read behind the last writer: %zd (%s)", got, std::strerror(errno))) return nullptr;
    close(ends[0]);
  }
  return nullptr;
}

void* close_readers(void*) {
  for (; !stop; ++rounds[1]) {
    std::array<int, 2> ends{};
    if (!CHECK(pipe2(ends.data(), O_NONBLOCK) == 0, "pipe2: %s", std::strerror(errno))) return nullptr;
    close(ends[0]);
    const ssize_t got = write(ends[1], "x", 1);
    if (!CHECK(got == -1 && errno == EPIPE, "write behind the last reader: %zd (%s)", got, std::strerror(errno)))
      return nullptr;
    close(ends[1]);
  }
  return nullptr;
}

}  // namespace

int main() {
  signal(SIGPIPE, SIG_IGN);
  std::array<pthread_t, 2> threads{};
  pthread_create(&threads[0], nullptr, close_writers, nullptr);
  pthread_create(&threads[1], nullptr, close_readers, nullptr);
  while (rounds[0] < 1000 || rounds[1] < 1000) scenario::pause_ms(1);

  scenario::ready_and_wait();

  const std::array<long, 2> before = {rounds[0], rounds[1]};
  scenario::wait_until([&] { return rounds[0] >= before[0] + 1000 && rounds[1] >= before[1] + 1000; });
  CHECK(rounds[0] > before[0], "the thread that closes writers stands still");
  CHECK(rounds[1] > before[1], "the thread that closes readers stands still");
  stop = true;
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return scenario::finish();
}
