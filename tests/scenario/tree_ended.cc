// SPDX-License-Identifier: Apache-2.0
// Zombies keep their exit status or deadly signal until they are waited for, and no SIGCHLD comes twice; a stopped
// child stays stopped and goes on by SIGCONT; a parent that sleeps in wait4 gets its child's status.
#include <sys/resource.h>

#include "tree.h"

namespace {

volatile sig_atomic_t child_signals = 0;
void on_child(int) { child_signals = child_signals + 1; }

char state_of(pid_t pid) {
  char text[512] = "";
  const int fd = open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, text, sizeof text - 1) <= 0) return '?';
  close(fd);
  const char* const end = std::strrchr(text, ')');
  return end != nullptr ? end[2] : '?';
}

std::string name_of(pid_t pid) {
  char text[64] = "";
  const int fd = open(("/proc/" + std::to_string(pid) + "/comm").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, text, sizeof text - 1) <= 0) return "?";
  close(fd);
  return text;
}

template <class F>
pid_t child(F work) {
  const pid_t pid = fork();
  if (pid < 0) scenario::broken_setup("fork", __FILE__, __LINE__);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    work();
    _exit(0);
  }
  return pid;
}

// Waits for what is told to the parent, without taking note of it: then the signal that tells of it has come, too.
void await(pid_t pid, int what) {
  siginfo_t info{};
  SETUP(waitid(P_PID, static_cast<id_t>(pid), &info, what | WNOWAIT));
}

void await_state(pid_t pid, char state) {
  scenario::wait_until([&] { return state_of(pid) == state; });
  CHECK(state_of(pid) == state, "process %d is in state %c, not %c", pid, state_of(pid), state);
}

}  // namespace

int main() {
  struct sigaction action{};
  action.sa_handler = on_child;
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  SETUP(sigaction(SIGCHLD, &action, nullptr));
  const pid_t exited = child([] {
    prctl(PR_SET_NAME, "ended (child)");
    _exit(42);
  });
  const pid_t killed = child([] {
    const rlimit none{};
    setrlimit(RLIMIT_CORE, &none);
    raise(SIGSEGV);
  });
  const pid_t stopped = child([] {
    raise(SIGSTOP);
    _exit(5);
  });
  // Sleeps in wait4 for a child that ends after "go on".
  const pid_t waiter = child([] {
    const std::string go = scenario::path("go");
    const pid_t inner = child([&] {
      while (!scenario::exists(go)) scenario::pause_ms(5);
      _exit(11);
    });
    int status = 0;
    if (waitpid(inner, &status, 0) != inner) _exit(99);
    _exit(WEXITSTATUS(status) + 1);
  });
  await(exited, WEXITED);
  await(killed, WEXITED);
  await(stopped, WSTOPPED);
  await_state(exited, 'Z');
  await_state(killed, 'Z');
  await_state(stopped, 'T');
  const int signals_before = child_signals;

  scenario::ready_and_wait();

  int status = 0;
  CHECK_EQ(waitpid(waiter, &status, 0), waiter);
  CHECK_EQ(status, 12 << 8);
  CHECK(child_signals <= signals_before + 1, "%d SIGCHLD came after the restart, one child ended",
        child_signals - signals_before);
  CHECK_EQ(state_of(exited), 'Z');
  CHECK(name_of(exited) == "ended (child)\n", "the ended child is called %s", name_of(exited).c_str());
  CHECK_EQ(waitpid(exited, &status, 0), exited);
  CHECK_EQ(status, 42 << 8);
  CHECK_EQ(waitpid(killed, &status, 0), killed);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "wait status %x instead of death by SIGSEGV", status);
  await_state(stopped, 'T');  // it has not run an instruction, but the kernel needs a moment to stop it
  kill(stopped, SIGCONT);
  CHECK_EQ(waitpid(stopped, &status, 0), stopped);
  CHECK_EQ(status, 5 << 8);
  errno = 0;
  CHECK_EQ(waitpid(-1, &status, WNOHANG), -1);
  CHECK_EQ(errno, ECHILD);
  return scenario::finish();
}
