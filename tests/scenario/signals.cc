// SPDX-License-Identifier: Apache-2.0
// Signals: actions, masks of each thread, and what is pending for the process and for a thread, in its order and with
// its siginfo.
// scenario: also-static
#include <signal.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <vector>

#include "scenario.h"

namespace {

// The kernel's own view of an action, restorer included.
struct KernelAction {
  void* handler;
  unsigned long flags;
  void* restorer;
  std::uint64_t mask;
  bool operator==(const KernelAction&) const = default;
};
using Actions = std::array<KernelAction, 65>;

Actions all_actions() {
  Actions actions{};
  for (int number = 1; number <= 64; ++number)
    syscall(SYS_rt_sigaction, number, nullptr, &actions.at(static_cast<std::size_t>(number)), 8);
  return actions;
}

std::uint64_t current_mask() {
  std::uint64_t mask = 0;
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &mask, 8);
  return mask;
}

std::uint64_t pending_set() {
  std::uint64_t set = 0;
  syscall(SYS_rt_sigpending, &set, 8);
  return set;
}

std::uint64_t bit(int number) { return std::uint64_t{1} << (number - 1); }

siginfo_t queued(int number, int code, int value) {
  siginfo_t info{};
  info.si_signo = number;
  info.si_code = code;
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_int = value;
  return info;
}

void send_to_process(const siginfo_t& info) { SETUP(syscall(SYS_rt_sigqueueinfo, getpid(), info.si_signo, &info)); }
void send_to_thread(const siginfo_t& info) {
  SETUP(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), info.si_signo, &info));
}

std::atomic<int> handled = 0;
std::atomic<int> handled_value = 0;
void on_signal(int, siginfo_t* info, void*) {
  handled_value = info->si_value.sival_int;
  ++handled;
}

// Takes one pending signal out of `set` and compares it.
void expect_next(std::uint64_t set, const siginfo_t& expected) {
  siginfo_t found{};
  const timespec at_once = {0, 0};
  const long number = syscall(SYS_rt_sigtimedwait, &set, &found, &at_once, 8);
  CHECK(number == expected.si_signo, "signal %ld is next, not %d", number, expected.si_signo);
  CHECK(found.si_code == expected.si_code, "signal %d: si_code %d, not %d", expected.si_signo, found.si_code,
        expected.si_code);
  CHECK(found.si_value.sival_int == expected.si_value.sival_int, "signal %d: value %d, not %d", expected.si_signo,
        found.si_value.sival_int, expected.si_value.sival_int);
  CHECK(found.si_pid == expected.si_pid && found.si_uid == expected.si_uid, "signal %d: from %d/%d, not %d/%d",
        expected.si_signo, found.si_pid, static_cast<int>(found.si_uid), expected.si_pid,
        static_cast<int>(expected.si_uid));
}

const int kRealTime = SIGRTMIN + 3;
// What main() blocks every thread must block, else a signal to the process goes there.
const std::uint64_t kBlockedInMain = bit(SIGUSR2) | bit(SIGHUP) | bit(SIGRTMIN + 1) | bit(SIGCHLD);
constexpr int kOwnCode = -77;  // a code of our own, as libraries use

std::atomic<int> set_up = 0;
std::atomic<bool> go = false;

// A thread with a mask of its own and signals pending for it alone.
void* pending_thread(void*) {
  std::uint64_t mask = kBlockedInMain | bit(SIGUSR1) | bit(kRealTime) | bit(SIGSEGV);
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8);
  std::vector<siginfo_t> sent = {queued(SIGUSR1, SI_QUEUE, 31), queued(kRealTime, SI_QUEUE, 1),
                                 queued(kRealTime, kOwnCode, 2), queued(kRealTime, SI_QUEUE, 3),
                                 queued(SIGSEGV, SI_QUEUE, 4)};
  // More than a batch holds.
  for (int value = 5; value < 205; ++value) sent.push_back(queued(kRealTime, SI_QUEUE, value));
  for (const auto& info : sent) send_to_thread(info);
  ++set_up;
  while (!go) scenario::pause_ms(5);
  CHECK(current_mask() == mask, "a thread's mask is %#lx, not %#lx", current_mask(), mask);
  expect_next(bit(SIGSEGV), sent[4]);
  expect_next(bit(SIGUSR1), sent[0]);
  sent.erase(sent.begin() + 4);
  for (std::size_t i = 1; i < sent.size(); ++i) expect_next(bit(kRealTime), sent[i]);
  return nullptr;
}

// A thread whose pending signal is handled, with its value, as soon as it unblocks it.
void* handling_thread(void*) {
  std::uint64_t mask = ~std::uint64_t{0};
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8);
  send_to_thread(queued(SIGRTMIN + 5, SI_QUEUE, 555));
  const std::uint64_t before = current_mask();
  ++set_up;
  while (!go) scenario::pause_ms(5);
  CHECK(current_mask() == before, "the full mask is %#lx, not %#lx", current_mask(), before);
  CHECK_EQ(handled, 0);
  mask = bit(SIGRTMIN + 5);
  syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &mask, nullptr, 8);
  CHECK_EQ(handled, 1);
  CHECK_EQ(handled_value, 555);
  return nullptr;
}

void set_actions() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaddset(&action.sa_mask, SIGTERM);
  sigaddset(&action.sa_mask, SIGRTMAX);
  for (const int number : {SIGUSR1, SIGRTMIN + 5, SIGWINCH, SIGTRAP}) SETUP(sigaction(number, &action, nullptr));
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESETHAND | SA_ONSTACK;
  SETUP(sigaction(SIGALRM, &action, nullptr));
  action = {};
  action.sa_handler = SIG_IGN;
  for (const int number : {SIGPIPE, SIGURG, SIGRTMIN + 7}) SETUP(sigaction(number, &action, nullptr));
  action.sa_handler = SIG_DFL;
  action.sa_flags = SA_NOCLDSTOP | SA_NOCLDWAIT;
  SETUP(sigaction(SIGCHLD, &action, nullptr));
}

}  // namespace

int main() {
  set_actions();
  std::uint64_t mask = kBlockedInMain;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, 8);
  std::array<pthread_t, 2> threads{};
  pthread_create(threads.data(), nullptr, pending_thread, nullptr);
  pthread_create(&threads[1], nullptr, handling_thread, nullptr);
  while (set_up < 2) scenario::pause_ms(1);
  // The first thread makes the C library set an action of its own.
  const Actions actions_before = all_actions();
  std::vector<siginfo_t> sent = {queued(SIGHUP, SI_USER, 0)};
  SETUP(kill(getpid(), SIGHUP));
  for (int value = 10; value < 20; ++value) {
    sent.push_back(queued(SIGRTMIN + 1, SI_QUEUE, value));
    send_to_process(sent.back());
  }
  const siginfo_t usr2 = queued(SIGUSR2, SI_QUEUE, 21);
  SETUP(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGUSR2, &usr2));
  const std::uint64_t pending_before = pending_set();

  scenario::ready_and_wait();

  CHECK(current_mask() == mask, "the mask is %#lx, not %#lx", current_mask(), mask);
  CHECK(pending_set() == pending_before, "pending are %#lx, not %#lx", pending_set(), pending_before);
  const Actions actions_after = all_actions();
  for (std::size_t number = 1; number <= 64; ++number)
    CHECK(actions_after.at(number) == actions_before.at(number), "the action of signal %zu differs", number);
  expect_next(bit(SIGUSR2), usr2);
  expect_next(bit(SIGHUP), sent[0]);
  for (std::size_t i = 1; i <= 10; ++i) expect_next(bit(SIGRTMIN + 1), sent[i]);
  go = true;
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  CHECK_EQ(static_cast<long long>(pending_set()), 0);
  return scenario::finish();
}
