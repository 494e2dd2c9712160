// SPDX-License-Identifier: Apache-2.0
// A periodic interval timer goes on, whether its signal waits when the checkpoint comes (the timer stands still then)
// or it ends while the program is frozen. An alarm that ends while the program is frozen is not lost either.
#include <signal.h>
#include <sys/time.h>

#include <atomic>

#include "tree.h"

namespace {

constexpr int kWanted = 5;
std::atomic<int> ticks = 0;

void on_tick(int) { ++ticks; }

void start_timer(long interval_us) {
  struct itimerval every = {};
  every.it_interval.tv_usec = every.it_value.tv_usec = interval_us;
  SETUP(setitimer(ITIMER_REAL, &every, nullptr));
}

sigset_t alarm_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  return set;
}

long count_ticks() {
  const int before = ticks;
  return scenario::wait_until([&] { return ticks >= before + kWanted; }) ? 1 : 0;
}

// Blocks the signal, and says yes when it waits.
void set_up_blocked() {
  const sigset_t set = alarm_set();
  SETUP(sigprocmask(SIG_BLOCK, &set, nullptr));
  start_timer(1000);
  sigset_t pending;
  do {
    scenario::pause_ms(1);
    sigpending(&pending);
  } while (!sigismember(&pending, SIGALRM));
}

long unblock_and_count(char) {
  const sigset_t set = alarm_set();
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  return count_ticks();
}

}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_handler = on_tick;
  action.sa_flags = SA_RESTART;
  SETUP(sigaction(SIGALRM, &action, nullptr));
  scenario::Member blocked(set_up_blocked, unblock_and_count);
  // So short that it ends in every freeze.
  scenario::Member quick([] { start_timer(500); }, [](char) { return count_ticks(); });

  scenario::ready_and_wait();

  CHECK_EQ(blocked.ask('t'), 1);
  CHECK_EQ(quick.ask('t'), 1);
  blocked.end();
  quick.end();
  return scenario::finish();
}
