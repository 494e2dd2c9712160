// SPDX-License-Identifier: Apache-2.0
// pidfds: of a child, by which it is signalled and waited for, also by epoll; of the process itself; of one that is
// gone.
#include <sys/epoll.h>

#include "tree.h"

using scenario::Member;

namespace {

// glibc 2.36 declares these without C linkage.
int pidfd_open(pid_t pid, unsigned flags) { return static_cast<int>(syscall(SYS_pidfd_open, pid, flags)); }
int pidfd_send_signal(int fd, int number) {
  return static_cast<int>(syscall(SYS_pidfd_send_signal, fd, number, nullptr, 0));
}
constexpr unsigned kNonBlock = O_NONBLOCK;  // PIDFD_NONBLOCK

bool is_ready(int fd, int milliseconds) {
  pollfd poll = {.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, milliseconds) == 1;
}

long own = -1;
volatile sig_atomic_t signals = 0;
void on_signal(int) { signals = signals + 1; }

long answer(char question) {
  if (question == 's') return pidfd_send_signal(static_cast<int>(own), SIGUSR1) == 0 ? signals : -1;
  return own;
}

}  // namespace

int main() {
  signal(SIGUSR1, on_signal);
  Member child([] { own = SETUP(pidfd_open(getpid(), 0)); }, answer);
  const int plain = SETUP(pidfd_open(child.pid(), kNonBlock));
  const int low = SETUP(dup(plain));
  const int high = SETUP(dup2(plain, 200));
  const int self = SETUP(pidfd_open(getpid(), 0));
  const pid_t gone_pid = SETUP(fork());
  if (gone_pid == 0) _exit(3);
  const int gone = SETUP(pidfd_open(gone_pid, 0));
  SETUP(waitpid(gone_pid, nullptr, 0));
  const int epoll = SETUP(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = 42}};
  SETUP(epoll_ctl(epoll, EPOLL_CTL_ADD, plain, &event));

  scenario::ready_and_wait();

  CHECK_EQ(child.ask('s'), 1L);
  CHECK_EQ(pidfd_send_signal(plain, SIGUSR1), 0);
  CHECK_EQ(child.ask('s'), 3L);
  CHECK((fcntl(plain, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");
  CHECK((fcntl(plain, F_GETFD) & FD_CLOEXEC) != 0, "the pidfd is not close-on-exec any more");
  CHECK((fcntl(high, F_GETFD) & FD_CLOEXEC) == 0 && (fcntl(low, F_GETFD) & FD_CLOEXEC) == 0,
        "a duplicate is close-on-exec");
  CHECK_EQ(pidfd_send_signal(self, 0), 0);
  CHECK(pidfd_send_signal(gone, 0) == -1 && errno == ESRCH, "a process that is gone is there");
  CHECK(is_ready(gone, 0), "a process that is gone has not ended");
  CHECK(!is_ready(plain, 0), "the child has ended");
  CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 0);
  CHECK_EQ(kill(child.pid(), SIGTERM), 0);
  CHECK_EQ(epoll_wait(epoll, &event, 1, 120000), 1);
  CHECK_EQ(event.data.u64, 42);
  CHECK(is_ready(high, 0), "the duplicate does not see the end");
  siginfo_t info{};
  CHECK_EQ(waitid(P_PIDFD, static_cast<id_t>(low), &info, WEXITED), 0);
  CHECK_EQ(info.si_pid, child.pid());
  CHECK_EQ(info.si_status, SIGTERM);
  return scenario::finish();
}
