// SPDX-License-Identifier: Apache-2.0
// Blocking system calls, each held by a thread of its own, see no spurious return; those with a time-out are long.
// (blocking_calls_on_objects.cc has the ones that need sockets, semaphores, timers and the like.)
// scenario: also-static
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/select.h>
#include <sys/uio.h>

#include <array>
#include <deque>

#include "blocking.h"

namespace {

constexpr timespec kLong = {3600, 0};

struct Pipe {
  int read_end = -1;
  int write_end = -1;
};

// One pipe for each call, so that a byte releases exactly one.
Pipe make_pipe() {
  std::array<int, 2> ends{};
  SETUP(pipe2(ends.data(), 0));
  return {ends[0], ends[1]};
}

timespec in_an_hour(clockid_t clock) {
  timespec ts{};
  clock_gettime(clock, &ts);
  ts.tv_sec += 3600;
  return ts;
}

std::array<std::atomic<std::uint32_t>, 8> futexes{};
void wake(std::size_t i) {
  futexes.at(i) = 1;
  // The thread may not be back in its call yet right after a restart; a wake that finds it finds one.
  while (syscall(SYS_futex, &futexes.at(i), FUTEX_WAKE, 1, nullptr, nullptr, 0) == 0) scenario::pause_ms(1);
}

}  // namespace

int main() {
  sigset_t held;
  sigemptyset(&held);
  sigaddset(&held, SIGUSR1);
  sigaddset(&held, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &held, nullptr);
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, nullptr);

  scenario::BlockingCalls calls;
  const auto with_pipe = [&](const char* name, const std::function<long(int)>& call) {
    const Pipe pipe = make_pipe();
    calls.add(name, [=] { return call(pipe.read_end); }, [=] { SETUP(write(pipe.write_end, "x", 1)); });
  };
  with_pipe("read(pipe)", [](int fd) {
    char c = 0;
    return syscall(SYS_read, fd, &c, 1);
  });
  with_pipe("readv(pipe)", [](int fd) {
    char c = 0;
    const iovec part = {&c, 1};
    return syscall(SYS_readv, fd, &part, 1);
  });
  with_pipe("poll(time-out)", [](int fd) {
    pollfd entry = {fd, POLLIN, 0};
    return syscall(SYS_poll, &entry, 1, 3600000);
  });
  with_pipe("poll(for ever)", [](int fd) {
    pollfd entry = {fd, POLLIN, 0};
    return syscall(SYS_poll, &entry, 1, -1);
  });
  with_pipe("ppoll(time-out, mask)", [](int fd) {
    pollfd entry = {fd, POLLIN, 0};
    timespec ts = kLong;
    const std::uint64_t mask = 0x200;  // SIGUSR1 stays blocked
    return syscall(SYS_ppoll, &entry, 1, &ts, &mask, 8);
  });
  with_pipe("select(time-out)", [](int fd) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    timeval tv = {3600, 0};
    return syscall(SYS_select, fd + 1, &set, nullptr, nullptr, &tv);
  });
  with_pipe("pselect6(for ever)", [](int fd) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    return syscall(SYS_pselect6, fd + 1, &set, nullptr, nullptr, nullptr, nullptr);
  });
  with_pipe("splice(pipe to pipe)", [](int fd) {
    const Pipe to = make_pipe();
    return syscall(SYS_splice, fd, nullptr, to.write_end, nullptr, 1, 0);
  });
  const Pipe full = make_pipe();
  const int room = SETUP(fcntl(full.write_end, F_SETPIPE_SZ, 4096));
  const std::string filling(static_cast<std::size_t>(room), 'f');
  SETUP(write(full.write_end, filling.data(), filling.size()));
  calls.add(
      "write(full pipe)", [=] { return syscall(SYS_write, full.write_end, "y", 1); },
      [=] {
        std::string sink(filling.size(), '\0');
        SETUP(read(full.read_end, sink.data(), sink.size()));
      });
  const auto futex = [&](const char* name, std::size_t i, const std::function<long(void*)>& call) {
    calls.add(name, [=] { return call(&futexes.at(i)); }, [=] { wake(i); });
  };
  futex("futex(for ever)", 0, [](void* at) { return syscall(SYS_futex, at, FUTEX_WAIT, 0, nullptr, nullptr, 0); });
  futex("futex(time-out)", 1, [](void* at) { return syscall(SYS_futex, at, FUTEX_WAIT, 0, &kLong, nullptr, 0); });
  futex("futex(bitset, until)", 2, [](void* at) {
    const timespec until = in_an_hour(CLOCK_MONOTONIC);
    return syscall(SYS_futex, at, FUTEX_WAIT_BITSET, 0, &until, nullptr, ~0U);
  });
  futex("futex(bitset, until real time)", 3, [](void* at) {
    const timespec until = in_an_hour(CLOCK_REALTIME);
    return syscall(SYS_futex, at, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &until, nullptr, ~0U);
  });
  calls.add(
      "futex_waitv",
      [] {
        const struct {
          std::uint64_t value, address;
          std::uint32_t flags, reserved;
        } waiter = {0, reinterpret_cast<std::uint64_t>(&futexes[4]), 2, 0};
        return syscall(449, &waiter, 1, 0, nullptr, 0);
      },
      [] { wake(4); });
  calls.add("nanosleep", [] { return syscall(SYS_nanosleep, &kLong, nullptr); });
  calls.add("nanosleep(remainder)", [] {
    timespec ts = kLong;
    return syscall(SYS_nanosleep, &ts, &ts);
  });
  calls.add("clock_nanosleep(relative)",
            [] { return syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &kLong, nullptr); });
  calls.add("clock_nanosleep(until)", [] {
    const timespec until = in_an_hour(CLOCK_MONOTONIC);
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 1, &until, nullptr);
  });
  // Signals that only their thread gets.
  const auto signalled = [&](const char* name, int number,
                             const std::function<long()>& call) -> scenario::BlockingCall& {
    scenario::BlockingCall& added = calls.add(name, call);
    added.release = [&added, number] { syscall(SYS_tgkill, getpid(), added.tid.load(), number); };
    return added;
  };
  signalled("rt_sigtimedwait(time-out)", SIGUSR2, [] {
    const std::uint64_t set = std::uint64_t{1} << (SIGUSR2 - 1);
    return syscall(SYS_rt_sigtimedwait, &set, nullptr, &kLong, 8);
  });
  signalled("rt_sigtimedwait(for ever)", SIGUSR2, [] {
    const std::uint64_t set = std::uint64_t{1} << (SIGUSR2 - 1);
    return syscall(SYS_rt_sigtimedwait, &set, nullptr, nullptr, 8);
  });
  const auto interrupted = [](long result, int error) { return result == -1 && error == EINTR; };
  signalled("rt_sigsuspend", SIGUSR1, [] {
    const std::uint64_t none = 0;
    return syscall(SYS_rt_sigsuspend, &none, 8);
  }).right = interrupted;
  signalled("pause", SIGUSR1, [] {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
    return syscall(SYS_pause);
  }).right = interrupted;
  calls.start();

  scenario::ready_and_wait();

  calls.check_and_release();
  std::printf("%zu blocking calls\n", calls.size());
  return scenario::finish();
}
