// SPDX-License-Identifier: Apache-2.0
// Children that were stopped and continued: who stands, who runs, and what the parent has already been told of it; it
// is told everything once, and gets no SIGCHLD for nothing.
#include <atomic>
#include <thread>
#include <vector>

#include "tree.h"

namespace {

volatile sig_atomic_t g_child_signals = 0;

char state_now(pid_t pid) {
  char text[512] = {};
  FILE* const file = fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "r");
  if (file == nullptr) return '?';
  const std::size_t size = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  const char* const end = size > 0 ? std::strrchr(text, ')') : nullptr;
  return end ? end[2] : '?';
}

// One that was let go a moment ago is on its way to where it sleeps or stands.
char state_of(pid_t pid) {
  while (state_now(pid) == 'R') scenario::pause_ms(1);
  return state_now(pid);
}

pid_t start(int threads) {
  const pid_t pid = fork();
  SETUP(pid);
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i)
    others.emplace_back([] {
      for (;;) pause();
    });
  for (;;) pause();
}

// Sends it, and waits for the change without asking for it, and for the signal that tells of it.
void change(pid_t pid, int signal, int what) {
  const int before = g_child_signals;
  SETUP(kill(pid, signal));
  siginfo_t info{};
  SETUP(waitid(P_PID, static_cast<id_t>(pid), &info, what | WNOWAIT));
  while (g_child_signals == before) scenario::pause_ms(1);
}

void stop(pid_t pid) { change(pid, SIGSTOP, WSTOPPED); }
void go_on(pid_t pid) { change(pid, SIGCONT, WCONTINUED); }

void be_told(pid_t pid, int options) {
  int status = 0;
  CHECK_EQ(waitpid(pid, &status, options), pid);
}

// What wait says of it now.
void expect(const char* who, pid_t pid, bool stopped, bool continued) {
  int status = 0;
  const pid_t found = waitpid(pid, &status, WUNTRACED | WCONTINUED | WNOHANG);
  CHECK(found == (stopped || continued ? pid : 0), "%s: wait finds %d", who, found);
  if (found != pid) return;
  CHECK(WIFSTOPPED(status) == stopped, "%s: wait status %x", who, status);
  CHECK(WIFCONTINUED(status) == continued, "%s: wait status %x", who, status);
  CHECK(waitpid(pid, &status, WUNTRACED | WCONTINUED | WNOHANG) == 0, "%s: told twice", who);
}

}  // namespace

int main() {
  struct sigaction action{};
  action.sa_handler = [](int) { g_child_signals = g_child_signals + 1; };
  action.sa_flags = SA_RESTART;
  SETUP(sigaction(SIGCHLD, &action, nullptr));

  const pid_t told_of_stop = start(1), untold_of_stop = start(1), told_of_both = start(1),
              untold_of_going_on = start(1), threads_told = start(5), threads_untold = start(5),
              threads_going_on = start(5);
  for (const pid_t pid : {told_of_stop, threads_told}) {
    stop(pid);
    be_told(pid, WUNTRACED);
  }
  for (const pid_t pid : {untold_of_stop, threads_untold}) stop(pid);
  for (const pid_t pid : {told_of_both, untold_of_going_on, threads_going_on}) {
    stop(pid);
    be_told(pid, WUNTRACED);
    go_on(pid);
  }
  be_told(told_of_both, WCONTINUED);
  const int signals = g_child_signals;

  scenario::ready_and_wait();

  CHECK_EQ(g_child_signals, signals);
  for (const pid_t pid : {told_of_stop, untold_of_stop, threads_told, threads_untold}) CHECK_EQ(state_of(pid), 'T');
  for (const pid_t pid : {told_of_both, untold_of_going_on, threads_going_on}) CHECK_EQ(state_of(pid), 'S');
  expect("told of the stop", told_of_stop, false, false);
  expect("not told of the stop", untold_of_stop, true, false);
  expect("told of both", told_of_both, false, false);
  expect("not told of going on", untold_of_going_on, false, true);
  expect("told of the stop of threads", threads_told, false, false);
  expect("not told of the stop of threads", threads_untold, true, false);
  expect("not told that threads go on", threads_going_on, false, true);
  for (const pid_t pid : {told_of_stop, untold_of_stop, threads_told, threads_untold}) {
    go_on(pid);
    expect("going on now", pid, false, true);
  }
  for (const pid_t pid : {told_of_stop, untold_of_stop, told_of_both, untold_of_going_on, threads_told, threads_untold,
                          threads_going_on}) {
    CHECK_EQ(kill(pid, SIGKILL), 0);
    int status = 0;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, SIGKILL);
  }
  return scenario::finish();
}
