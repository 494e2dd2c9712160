// SPDX-License-Identifier: Apache-2.0
// eventfds, timerfds, signalfds and epoll sets: counts, times that are left, masks, what is watched and how; sets
// within sets, entries of files that have been closed or have another number by now.
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include <array>
#include <set>

#include "scenario.h"

namespace {

void watch(int set, int fd, std::uint32_t events, std::uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  SETUP(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
}

// Data of everything that is ready now.
std::set<std::uint64_t> ready(int set) {
  std::array<epoll_event, 16> events{};
  const int count = epoll_wait(set, events.data(), events.size(), 0);
  std::set<std::uint64_t> found;
  for (int i = 0; i < count; ++i) found.insert(events[static_cast<std::size_t>(i)].data.u64);
  return found;
}

std::string text(const std::set<std::uint64_t>& numbers) {
  std::string all;
  for (const std::uint64_t number : numbers) all += " " + std::to_string(number);
  return all;
}

void check_ready(int set, const std::set<std::uint64_t>& expected, const char* what) {
  const std::set<std::uint64_t> found = ready(set);
  CHECK(found == expected, "%s:%s are ready, not%s", what, text(found).c_str(), text(expected).c_str());
}

std::uint64_t count_of(int fd) {
  std::uint64_t count = 0;
  return read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

void add(int fd, std::uint64_t value) { CHECK_EQ(write(fd, &value, sizeof value), sizeof value); }

int timer(clockid_t clock, itimerspec when) {
  const int fd = SETUP(timerfd_create(clock, TFD_NONBLOCK | TFD_CLOEXEC));
  SETUP(timerfd_settime(fd, 0, &when, nullptr));
  return fd;
}

double seconds_left(int fd) {
  itimerspec left{};
  timerfd_gettime(fd, &left);
  return static_cast<double>(left.it_value.tv_sec) + static_cast<double>(left.it_value.tv_nsec) / 1e9;
}

}  // namespace

int main() {
  const int plain = SETUP(eventfd(7, EFD_NONBLOCK)), semaphore = SETUP(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
  const int full = SETUP(eventfd(0, EFD_NONBLOCK));
  add(full, 0xfffffffffffffffeULL);

  const std::int64_t start = scenario::now_ns();
  const int far = timer(CLOCK_MONOTONIC, {{0, 0}, {1000, 0}}), due = timer(CLOCK_REALTIME, {{1000, 0}, {0, 1}});
  const int idle = SETUP(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK));

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  SETUP(sigprocmask(SIG_BLOCK, &signals, nullptr));
  const int caught = SETUP(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  const sigval payload = {.sival_int = 4711};
  SETUP(sigqueue(getpid(), SIGUSR2, payload));

  const int outer = SETUP(epoll_create1(EPOLL_CLOEXEC)), inner = SETUP(epoll_create1(0));
  std::array<int, 2> pipe_fds{};
  SETUP(pipe2(pipe_fds.data(), O_NONBLOCK));
  watch(inner, pipe_fds[0], EPOLLIN, 1);
  watch(outer, inner, EPOLLIN, 2);
  const int edge = SETUP(eventfd(0, EFD_NONBLOCK)), once = SETUP(eventfd(0, EFD_NONBLOCK));
  watch(outer, edge, EPOLLIN | EPOLLET, 3);
  watch(outer, once, EPOLLIN | EPOLLONESHOT, 4);
  add(once, 1);
  // Its entry names a number that is another file's by now; the file lives on under another number.
  const int moved = SETUP(eventfd(0, EFD_NONBLOCK));
  watch(outer, moved, EPOLLIN, 5);
  const int moved_to = SETUP(dup(moved));
  SETUP(dup2(plain, moved));
  watch(outer, moved, EPOLLIN, 6);
  // Two entries of one file, by two numbers.
  const int twin = SETUP(dup(edge));
  watch(outer, twin, EPOLLIN, 7);
  const int gone = SETUP(eventfd(1, EFD_NONBLOCK));
  watch(outer, gone, EPOLLIN, 8);
  close(gone);
  watch(outer, caught, EPOLLIN | EPOLLPRI, 9);
  watch(outer, far, EPOLLIN, 10);
  check_ready(outer, {4, 6, 9}, "before");  // 4 is spent by that

  scenario::ready_and_wait();

  check_ready(outer, {6, 9}, "afterwards");
  CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
  add(moved_to, 1);
  check_ready(outer, {2, 5, 6, 9}, "the inner set and the file that moved");
  check_ready(inner, {1}, "the inner set");
  add(edge, 1);
  check_ready(outer, {2, 3, 5, 6, 7, 9}, "a file with two entries");
  check_ready(outer, {2, 5, 6, 7, 9}, "an edge is told once, a level always");
  epoll_event again{};
  again.events = EPOLLIN;
  again.data.u64 = 44;
  CHECK_EQ(epoll_ctl(outer, EPOLL_CTL_MOD, once, &again), 0);
  CHECK(ready(outer).contains(44), "a one-shot entry can't be armed again");
  CHECK_EQ(epoll_ctl(outer, EPOLL_CTL_DEL, twin, nullptr), 0);
  CHECK_EQ(epoll_ctl(outer, EPOLL_CTL_DEL, gone, nullptr), -1);

  CHECK_EQ(count_of(plain), 7);
  CHECK_EQ(count_of(semaphore), 1);
  CHECK_EQ(count_of(semaphore), 1);
  CHECK_EQ(count_of(full), 0xfffffffffffffffeULL);
  const std::uint64_t one = 1;
  CHECK_EQ(write(full, &one, sizeof one), sizeof one);

  const double passed = static_cast<double>(scenario::now_ns() - start) / 1e9, left = seconds_left(far);
  CHECK(left > 0 && left <= 1000.1 && left >= 1000 - passed - 0.1, "%.3f s are left of 1000 after %.3f", left, passed);
  CHECK(count_of(due) >= 1, "a timer that was due has not fired");
  CHECK(seconds_left(due) > 0, "a periodic timer has stopped");
  CHECK(seconds_left(idle) == 0 && count_of(idle) == 0, "a timer runs that nobody has set");

  signalfd_siginfo info{};
  CHECK_EQ(read(caught, &info, sizeof info), sizeof info);
  CHECK_EQ(info.ssi_signo, SIGUSR2);
  CHECK_EQ(info.ssi_int, 4711);
  raise(SIGUSR1);
  CHECK_EQ(read(caught, &info, sizeof info), sizeof info);
  CHECK_EQ(info.ssi_signo, SIGUSR1);
  CHECK((fcntl(caught, F_GETFD) & FD_CLOEXEC) != 0, "close-on-exec is lost");
  return scenario::finish();
}
