// SPDX-License-Identifier: Apache-2.0
// Timers and sleeps: what had N seconds left has about N left; what was due has fired once. No check here depends on
// how fast the machine is: bounds come from the clock that the program itself sees.
// scenario: also-static
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <array>
#include <atomic>
#include <vector>

#include "scenario.h"

namespace {

constexpr std::int64_t kSecond = 1000000000;

std::atomic<int> ticks = 0;
std::atomic<int> thread_ticks = 0;
std::atomic<int> tick_value = 0;
thread_local bool is_ticked_thread = false;
void on_tick(int, siginfo_t* info, void*) {
  tick_value = info->si_value.sival_int;
  if (is_ticked_thread) ++thread_ticks;
  ++ticks;  // last: others wait for it and then look at the rest
}

std::int64_t ns(const timespec& ts) { return ts.tv_sec * kSecond + ts.tv_nsec; }
std::int64_t ns(const timeval& tv) { return tv.tv_sec * kSecond + tv.tv_usec * 1000; }

struct Timer {
  const char* name;
  int id;  // the kernel's
  std::int64_t left;
  std::int64_t interval;
};

itimerspec get(int id) {
  itimerspec spec{};
  SETUP(syscall(SYS_timer_gettime, id, &spec));
  return spec;
}

int create(clockid_t clock, int notify, int number, int value, int tid = 0) {
  sigevent event{};
  event.sigev_notify = notify;
  event.sigev_signo = number;
  event.sigev_value.sival_int = value;
  event._sigev_un._tid = tid;
  int id = -1;
  SETUP(syscall(SYS_timer_create, clock, &event, &id));
  return id;
}

void arm(int id, std::int64_t first, std::int64_t interval) {
  const itimerspec spec = {{interval / kSecond, interval % kSecond}, {first / kSecond, first % kSecond}};
  SETUP(syscall(SYS_timer_settime, id, 0, &spec, nullptr));
}

// What is left may have run on (while the program ran) but not grown, and not have run faster than the program's clock.
void check_left(const char* name, std::int64_t before, std::int64_t after, std::int64_t elapsed) {
  CHECK(after <= before && after > 0, "%s: %.3f s left, had %.3f", name, static_cast<double>(after) / 1e9,
        static_cast<double>(before) / 1e9);
  CHECK(after >= before - elapsed - kSecond, "%s: %.3f s left, had %.3f only %.3f s ago", name,
        static_cast<double>(after) / 1e9, static_cast<double>(before) / 1e9, static_cast<double>(elapsed) / 1e9);
}

std::atomic<int> sleeping = 0;
std::atomic<std::int64_t> slept = 0;
std::atomic<std::int64_t> slept_until = 0;

// Relative: one second of sleep, whatever happens in between, is at least one second.
void* relative_sleeper(void*) {
  const std::int64_t start = scenario::now_ns();
  ++sleeping;
  const timespec ts = {1, 0};
  const int result = nanosleep(&ts, nullptr);
  CHECK_EQ(result, 0);
  slept = scenario::now_ns() - start;
  return nullptr;
}

// Absolute: never wakes before its time.
void* absolute_sleeper(void* until) {
  const std::int64_t goal = *static_cast<const std::int64_t*>(until);
  ++sleeping;
  const timespec ts = {goal / kSecond, goal % kSecond};
  CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, nullptr), 0);
  slept_until = scenario::now_ns();
  return nullptr;
}

std::atomic<int> ticked_tid = 0;
std::atomic<bool> stop = false;
std::atomic<bool> went_back = false;
void* ticked_thread(void*) {
  is_ticked_thread = true;
  ticked_tid = static_cast<int>(syscall(SYS_gettid));
  while (!stop) scenario::pause_ms(5);
  return nullptr;
}

// Watches that no clock goes back.
void* clock_watcher(void*) {
  std::array<std::int64_t, 3> last{};
  while (!stop) {
    std::size_t i = 0;
    for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW}) {
      const std::int64_t now = scenario::now_ns(clock);
      if (now < last.at(i)) went_back = true;
      last.at(i++) = now;
    }
    scenario::pause_ms(1);
  }
  return nullptr;
}

}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_sigaction = on_tick;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  SETUP(sigaction(SIGRTMIN, &action, nullptr));

  std::array<pthread_t, 4> threads{};
  const std::int64_t wake_at = scenario::now_ns() + kSecond;
  pthread_create(threads.data(), nullptr, relative_sleeper, nullptr);
  pthread_create(&threads[1], nullptr, absolute_sleeper, const_cast<std::int64_t*>(&wake_at));
  pthread_create(&threads[2], nullptr, ticked_thread, nullptr);
  pthread_create(&threads[3], nullptr, clock_watcher, nullptr);
  while (sleeping < 2 || ticked_tid == 0) scenario::pause_ms(1);

  const int deleted = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
  std::vector<Timer> timers = {
      {"monotonic", create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 1), 500 * kSecond, 7 * kSecond},
      {"realtime", create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN, 2), 600 * kSecond, 0},
      {"boot time", create(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0), 700 * kSecond, 3},
      {"process CPU", create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN, 4), 800 * kSecond, 0},
      {"thread", create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN, 5, ticked_tid), 900 * kSecond, 5 * kSecond}};
  const int disarmed = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 6);
  const int thread_soon = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN, 77, ticked_tid);
  SETUP(syscall(SYS_timer_delete, deleted));
  const std::int64_t start = scenario::now_ns();  // before they run
  for (const Timer& timer : timers) arm(timer.id, timer.left, timer.interval);
  const itimerval real = {{1100, 0}, {10000, 0}};
  const itimerval virtual_time = {{1200, 0}, {20000, 0}};
  const itimerval profile = {{0, 0}, {30000, 0}};
  SETUP(setitimer(ITIMER_REAL, &real, nullptr));
  SETUP(setitimer(ITIMER_VIRTUAL, &virtual_time, nullptr));
  SETUP(setitimer(ITIMER_PROF, &profile, nullptr));

  scenario::ready_and_wait();

  for (const Timer& timer : timers) {
    const itimerspec now = get(timer.id);
    check_left(timer.name, timer.left, ns(now.it_value), scenario::now_ns() - start);
    CHECK(ns(now.it_interval) == timer.interval, "%s: the interval differs", timer.name);
  }
  const struct {
    const char* name;
    __itimer_which kind;
    const itimerval& before;
  } intervals[] = {{"ITIMER_REAL", ITIMER_REAL, real},
                   {"ITIMER_VIRTUAL", ITIMER_VIRTUAL, virtual_time},
                   {"ITIMER_PROF", ITIMER_PROF, profile}};
  for (const auto& interval : intervals) {
    itimerval now{};
    getitimer(interval.kind, &now);
    // A CPU timer counts in ticks, so it may stand a tick above.
    check_left(interval.name, ns(interval.before.it_value) + kSecond / 50, ns(now.it_value),
               scenario::now_ns() - start);
    CHECK(ns(now.it_interval) == ns(interval.before.it_interval), "%s: the interval differs", interval.name);
  }
  CHECK_EQ(ns(get(disarmed).it_value), 0);
  itimerspec ignored{};
  CHECK(syscall(SYS_timer_gettime, deleted, &ignored) == -1 && errno == EINVAL, "a deleted timer is back");
  // The timers still do their work, in the right thread and with the right value.
  arm(thread_soon, 1000000, 0);
  while (ticks == 0) scenario::pause_ms(1);
  CHECK_EQ(thread_ticks, 1);
  CHECK_EQ(tick_value, 77);
  arm(disarmed, 1000000, 0);
  while (ticks == 1) scenario::pause_ms(1);
  CHECK_EQ(tick_value, 6);
  stop = true;
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  CHECK(slept >= kSecond, "a sleep of 1 s took %.3f s", static_cast<double>(slept) / 1e9);
  CHECK(slept_until >= wake_at, "a sleep woke %.3f s before its time",
        static_cast<double>(wake_at - slept_until) / 1e9);
  CHECK(!went_back, "a clock went back");
  return scenario::finish();
}
