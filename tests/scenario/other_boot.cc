// SPDX-License-Identifier: Apache-2.0
// A program that is restarted on another boot: monotonic and boot time never go back, the clock page agrees with the
// kernel, sleeps and time-outs that were under way last what they should, and so do new ones. The file `ahead` says by
// how many seconds the runner's faked boots put the clocks ahead in all.
// scenario: modes=plain,leave,boot,boot-twice,user-boot,user-boot-twice,cpu,user-cpu
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include <array>
#include <atomic>
#include <deque>
#include <fstream>
#include <functional>

#include "scenario.h"

namespace {

constexpr std::int64_t kSecond = 1000000000;
constexpr std::int64_t kMilli = 1000000;
constexpr std::array kClocks = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME};

timespec to_timespec(std::int64_t ns) { return {ns / kSecond, ns % kSecond}; }
double seconds(std::int64_t ns) { return static_cast<double>(ns) / 1e9; }

// Asks the kernel itself; scenario::now_ns() takes the time from the page that the kernel shares with the program.
std::int64_t kernel_ns(clockid_t clock) {
  timespec ts{};
  syscall(SYS_clock_gettime, clock, &ts);
  return ts.tv_sec * kSecond + ts.tv_nsec;
}

// A wait of `timeout`, or until that time where the call takes one; the result must be `expected` (or -1 and errno).
struct Wait {
  const char* name;
  clockid_t clock;
  std::function<long(std::int64_t timeout, std::int64_t until)> call;
  long expected;
};

int make_timer_fd(clockid_t clock, int flags, std::int64_t when) {
  const int fd = SETUP(timerfd_create(clock, TFD_CLOEXEC));
  const itimerspec spec = {{}, to_timespec(when)};
  SETUP(timerfd_settime(fd, flags, &spec, nullptr));
  return fd;
}

long read_timer_fd(clockid_t clock, int flags, std::int64_t when) {
  const int fd = make_timer_fd(clock, flags, when);
  std::uint64_t expirations = 0;
  const long got = read(fd, &expirations, sizeof expirations);
  close(fd);
  return got == sizeof expirations ? static_cast<long>(expirations) : -EIO;
}

// A POSIX timer that wakes the thread by a signal which it waits for.
long wait_for_timer(clockid_t clock, int flags, std::int64_t when) {
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGRTMIN;
  event._sigev_un._tid = static_cast<int>(syscall(SYS_gettid));
  int id = -1;
  SETUP(syscall(SYS_timer_create, clock, &event, &id));
  const itimerspec spec = {{}, to_timespec(when)};
  SETUP(syscall(SYS_timer_settime, id, flags, &spec, nullptr));
  const std::uint64_t set = std::uint64_t{1} << (SIGRTMIN - 1);
  const long got = syscall(SYS_rt_sigtimedwait, &set, nullptr, nullptr, 8);
  syscall(SYS_timer_delete, id);
  return got == SIGRTMIN ? 0 : -errno;
}

long futex(int operation, std::int64_t when) {
  std::uint32_t word = 0;
  const timespec ts = to_timespec(when);
  const long result = syscall(SYS_futex, &word, operation, 0, &ts, nullptr, FUTEX_BITSET_MATCH_ANY);
  return result == 0 ? 0 : -errno;
}

long sleep_on(clockid_t clock, int flags, std::int64_t when) {
  const timespec ts = to_timespec(when);
  return -syscall(SYS_clock_nanosleep, clock, flags, &ts, nullptr);
}

const std::array kWaits = {
    Wait{"nanosleep", CLOCK_MONOTONIC,
         [](std::int64_t timeout, std::int64_t) {
           const timespec ts = to_timespec(timeout);
           return syscall(SYS_nanosleep, &ts, nullptr);
         },
         0},
    Wait{"clock_nanosleep", CLOCK_BOOTTIME,
         [](std::int64_t timeout, std::int64_t) { return sleep_on(CLOCK_BOOTTIME, 0, timeout); }, 0},
    Wait{"clock_nanosleep TIMER_ABSTIME", CLOCK_MONOTONIC,
         [](std::int64_t, std::int64_t until) { return sleep_on(CLOCK_MONOTONIC, TIMER_ABSTIME, until); }, 0},
    Wait{"clock_nanosleep TIMER_ABSTIME (boot time)", CLOCK_BOOTTIME,
         [](std::int64_t, std::int64_t until) { return sleep_on(CLOCK_BOOTTIME, TIMER_ABSTIME, until); }, 0},
    Wait{"POSIX timer", CLOCK_MONOTONIC,
         [](std::int64_t timeout, std::int64_t) { return wait_for_timer(CLOCK_MONOTONIC, 0, timeout); }, 0},
    Wait{"POSIX timer TIMER_ABSTIME", CLOCK_BOOTTIME,
         [](std::int64_t, std::int64_t until) { return wait_for_timer(CLOCK_BOOTTIME, TIMER_ABSTIME, until); }, 0},
    Wait{"timerfd", CLOCK_BOOTTIME,
         [](std::int64_t timeout, std::int64_t) { return read_timer_fd(CLOCK_BOOTTIME, 0, timeout); }, 1},
    Wait{"timerfd TFD_TIMER_ABSTIME", CLOCK_MONOTONIC,
         [](std::int64_t, std::int64_t until) { return read_timer_fd(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, until); }, 1},
    Wait{"poll", CLOCK_MONOTONIC,
         [](std::int64_t timeout, std::int64_t) {
           return syscall(SYS_poll, nullptr, 0, static_cast<int>(timeout / kMilli));
         },
         0},
    Wait{"select", CLOCK_MONOTONIC,
         [](std::int64_t timeout, std::int64_t) {
           timeval tv = {timeout / kSecond, timeout % kSecond / 1000};
           return syscall(SYS_select, 0, nullptr, nullptr, nullptr, &tv);
         },
         0},
    Wait{"epoll_wait", CLOCK_MONOTONIC,
         [](std::int64_t timeout, std::int64_t) -> long {
           const int fd = SETUP(epoll_create1(EPOLL_CLOEXEC));
           epoll_event event{};
           const long got = syscall(SYS_epoll_wait, fd, &event, 1, static_cast<int>(timeout / kMilli));
           close(fd);
           return got;
         },
         0},
    Wait{"futex", CLOCK_MONOTONIC, [](std::int64_t timeout, std::int64_t) { return futex(FUTEX_WAIT, timeout); },
         -ETIMEDOUT},
    Wait{"futex with an absolute time-out", CLOCK_MONOTONIC,
         [](std::int64_t, std::int64_t until) { return futex(FUTEX_WAIT_BITSET, until); }, -ETIMEDOUT},
};

// One wait in a thread of its own.
struct Waiter {
  const Wait* wait = nullptr;
  std::int64_t timeout = 0;
  std::atomic<bool> begun = false;
  std::int64_t until = 0;
  std::int64_t lasted_in_real_time = 0;
  std::int64_t ended = 0;
  long result = 0;
  pthread_t thread{};
};

void* wait_once(void* argument) {
  auto& waiter = *static_cast<Waiter*>(argument);
  waiter.until = scenario::now_ns(waiter.wait->clock) + waiter.timeout;
  const std::int64_t start = scenario::now_ns(CLOCK_REALTIME);
  waiter.begun = true;
  waiter.result = waiter.wait->call(waiter.timeout, waiter.until);
  waiter.ended = scenario::now_ns(waiter.wait->clock);
  waiter.lasted_in_real_time = scenario::now_ns(CLOCK_REALTIME) - start;
  return nullptr;
}

class Waiters {
 public:
  void start(std::int64_t timeout) {
    for (const Wait& wait : kWaits) {
      Waiter& waiter = waiters_.emplace_back();
      waiter.wait = &wait;
      waiter.timeout = timeout;
      if (pthread_create(&waiter.thread, nullptr, wait_once, &waiter) != 0) {
        scenario::broken_setup("pthread_create", __FILE__, __LINE__);
      }
    }
    for (const Waiter& waiter : waiters_) {
      while (!waiter.begun) scenario::pause_ms(1);
    }
  }

  // All end (the runner gives up after a while), none before its time. The wall clock is not the namespace's: it tells
  // how long a wait took even when the others jumped; only what waits for a point in time may end by a jump.
  void check(bool clocks_may_jump) {
    for (Waiter& waiter : waiters_) {
      pthread_join(waiter.thread, nullptr);
      const char* const name = waiter.wait->name;
      CHECK(waiter.result == waiter.wait->expected, "%s ended with %ld", name, waiter.result);
      CHECK(waiter.ended >= waiter.until, "%s ended %.3f s before its time", name,
            seconds(waiter.until - waiter.ended));
      constexpr std::int64_t kSteppedClock = 20 * kMilli;  // poll and epoll count in milliseconds; NTP may slew
      const bool absolute =
          std::string(name).find("abs") != std::string::npos || std::string(name).find("ABSTIME") != std::string::npos;
      if (absolute && clocks_may_jump) continue;
      CHECK(waiter.lasted_in_real_time >= waiter.timeout - kSteppedClock, "%s of %.3f s took %.3f s", name,
            seconds(waiter.timeout), seconds(waiter.lasted_in_real_time));
    }
  }

 private:
  std::deque<Waiter> waiters_;
};

std::atomic<bool> stop = false;
std::atomic<long> looks = 0;
std::atomic<int> went_back = 0;

// Watches every clock without a pause, by the shared page and by the kernel in turns: none may ever be behind the last.
void* clock_watcher(void*) {
  std::array<std::int64_t, kClocks.size()> last{};
  while (!stop) {
    for (std::size_t i = 0; i < kClocks.size(); ++i) {
      const std::int64_t here = scenario::now_ns(kClocks.at(i));
      if (here < last.at(i)) ++went_back;
      const std::int64_t there = kernel_ns(kClocks.at(i));
      if (there < here) ++went_back;
      last.at(i) = there;
    }
    if (++looks % 256 == 0) scenario::pause_ms(1);
  }
  return nullptr;
}

std::int64_t seconds_ahead() {
  std::ifstream file(scenario::path("ahead"));
  std::int64_t ahead = 0;
  file >> ahead;
  return ahead;
}

}  // namespace

int main() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  SETUP(sigprocmask(SIG_BLOCK, &set, nullptr));
  std::array<pthread_t, 2> watchers{};
  for (pthread_t& watcher : watchers) pthread_create(&watcher, nullptr, clock_watcher, nullptr);
  Waiters before;
  before.start(2 * kSecond);
  // The real time is read before and behind all others, so that it does not matter how long the program waits between.
  const std::int64_t real_start = scenario::now_ns(CLOCK_REALTIME);
  const int idle_timer = make_timer_fd(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, scenario::now_ns() + 1000 * kSecond);
  std::array<std::int64_t, kClocks.size()> start{};
  for (std::size_t i = 0; i < kClocks.size(); ++i) start.at(i) = scenario::now_ns(kClocks.at(i));

  scenario::ready_and_wait();

  // The clocks ran on by what the faked boots say, and by no more than the time that really went by.
  const std::int64_t ahead = seconds_ahead() * kSecond;
  std::array<std::int64_t, kClocks.size()> end{};
  for (std::size_t i = 0; i < kClocks.size(); ++i) end.at(i) = scenario::now_ns(kClocks.at(i));
  itimerspec left{};
  SETUP(timerfd_gettime(idle_timer, &left));
  const std::int64_t really = scenario::now_ns(CLOCK_REALTIME) - real_start;
  for (std::size_t i = 0; i < kClocks.size(); ++i) {
    const std::int64_t ran = end.at(i) - start.at(i);
    CHECK(ran >= ahead && ran <= ahead + really + kSecond, "clock %d ran %.3f s, %.3f of them faked, in %.3f s",
          kClocks.at(i), seconds(ran), seconds(ahead), seconds(really));
  }
  const std::int64_t left_ns = left.it_value.tv_sec * kSecond + left.it_value.tv_nsec;
  CHECK(left_ns <= 1000 * kSecond && left_ns >= 1000 * kSecond - really - kSecond - (ahead ? 0 : kSecond),
        "a timerfd has %.3f s of 1000 left", seconds(left_ns));

  Waiters after;
  after.start(200 * kMilli);
  after.check(false);
  before.check(ahead != 0);
  stop = true;
  for (const pthread_t watcher : watchers) pthread_join(watcher, nullptr);
  CHECK(looks > 0 && went_back == 0, "of %ld looks, %d found a clock that went back", looks.load(), went_back.load());
  return scenario::finish();
}
