// SPDX-License-Identifier: Apache-2.0
// How the end of a process is told: exit signals other than SIGCHLD, or none; the signal at the death of a parent;
// orphans that come to a subreaper, before and after.
#include <sys/mman.h>

#include "tree.h"

namespace {

const int kTold = SIGRTMIN + 3;

// A child that ends with a status once it is told to, and whose parent is told by `signal` (0: by none).
struct Child {
  pid_t pid = 0;
  int tell = -1;
};

Child make(int signal, int status) {
  int ends[2];
  SETUP(pipe2(ends, O_CLOEXEC));
  const pid_t parent = getpid();
  const auto pid = static_cast<pid_t>(SETUP(syscall(SYS_clone, static_cast<unsigned long>(signal), 0, 0, 0, 0)));
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(99);
    char byte = 0;
    _exit(read(ends[0], &byte, 1) == 1 ? status : 98);
  }
  close(ends[0]);
  return {pid, ends[1]};
}

void end(const Child& child) { CHECK_EQ(write(child.tell, "x", 1), 1); }

// Waits for a pending signal; 0: none comes.
int taken(int seconds) {
  sigset_t all;
  sigfillset(&all);
  const timespec patience = {seconds, 0};
  siginfo_t info{};
  const int signal = sigtimedwait(&all, &info, &patience);
  return signal < 0 ? 0 : signal;
}

pid_t parent_of(pid_t pid) {
  char text[512] = "";
  const int fd = open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  const ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  const char* const end = got > 0 ? std::strrchr(text, ')') : nullptr;
  return end != nullptr ? std::atoi(end + 4) : -1;
}

}  // namespace

int main() {
  sigset_t all;
  sigfillset(&all);
  SETUP(sigprocmask(SIG_BLOCK, &all, nullptr));
  SETUP(prctl(PR_SET_CHILD_SUBREAPER, 1));
  const Child other = make(SIGUSR1, 3), silent = make(0, 4), usual = make(SIGCHLD, 5);

  // A parent with a child that wants to know of its end; and one that has ended already.
  auto* const shared =
      static_cast<pid_t*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  scenario::Member parent(
      [&] {
        const pid_t self = getpid();
        const pid_t pid = SETUP(fork());
        if (pid == 0) {
          prctl(PR_SET_PDEATHSIG, kTold);
          shared[1] = getppid() == self;
          const int got = taken(600);
          shared[2] = got;
          shared[3] = getppid();
          _exit(got == kTold ? 11 : 12);
        }
        shared[0] = pid;
      },
      [](char) -> long { return 0; });
  scenario::Member early(
      [&] {
        const pid_t pid = SETUP(fork());
        if (pid == 0) {
          for (;;) pause();
        }
        shared[4] = pid;
      },
      [](char) -> long { return 0; });
  const pid_t ward = shared[0], orphan = shared[4];
  CHECK_EQ(early.end(), 7 << 8);
  CHECK_EQ(parent_of(orphan), getpid());
  while (taken(0) != 0) {
  }
  if (!scenario::wait_until([&] { return shared[1] == 1; })) return 2;

  scenario::ready_and_wait();

  end(silent);
  int status = 0;
  CHECK_EQ(waitpid(silent.pid, &status, __WALL), silent.pid);
  CHECK_EQ(WEXITSTATUS(status), 4);
  CHECK_EQ(taken(0), 0);
  end(other);
  CHECK_EQ(taken(120), SIGUSR1);
  CHECK_EQ(waitpid(other.pid, &status, WNOHANG), -1);  // a plain wait does not see a clone
  CHECK_EQ(waitpid(other.pid, &status, __WCLONE), other.pid);
  CHECK_EQ(WEXITSTATUS(status), 3);
  end(usual);
  CHECK_EQ(taken(120), SIGCHLD);
  CHECK_EQ(waitpid(usual.pid, &status, 0), usual.pid);
  CHECK_EQ(WEXITSTATUS(status), 5);

  CHECK_EQ(parent_of(orphan), getpid());
  CHECK_EQ(parent_of(ward), parent.pid());
  CHECK_EQ(parent.end(), 7 << 8);
  CHECK_EQ(waitpid(ward, &status, 0), ward);
  CHECK_EQ(WEXITSTATUS(status), 11);
  CHECK_EQ(shared[2], kTold);
  CHECK_EQ(shared[3], getpid());
  CHECK_EQ(kill(orphan, SIGKILL), 0);
  CHECK_EQ(waitpid(orphan, &status, 0), orphan);
  return scenario::finish();
}
