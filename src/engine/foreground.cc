// SPDX-License-Identifier: Apache-2.0
#include "engine/foreground.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace stasis {
namespace {

constexpr std::array kPassedOn = {SIGHUP,  SIGINT,  SIGQUIT,  SIGTERM, SIGUSR1, SIGUSR2,
                                  SIGALRM, SIGCONT, SIGWINCH, SIGTSTP, SIGPIPE, SIGURG};

sigset_t held_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kPassedOn) sigaddset(&set, signal);
  sigaddset(&set, SIGCHLD);
  return set;
}

// The terminal sends its signals to the whole foreground group: a program in our group has it already.
bool has_it_already(const siginfo_t& info, HostPid receiver) {
  return info.si_code == SI_KERNEL && ::getpgid(receiver.value()) == ::getpgrp();
}

class Waiter {
 public:
  explicit Waiter(const Attendance& attendance) : attendance_(attendance) {}

  std::optional<ProgramEnd> run() {
    const sigset_t set = held_signals();
    for (;;) {
      if (attendance_.news) {
        if (auto end = attendance_.news()) return end;
      }
      if (auto end = look_at_children()) return end;
      if (childless_) return std::nullopt;
      siginfo_t info{};
      if (::sigwaitinfo(&set, &info) >= 0) take(info);
    }
  }

 private:
  std::optional<ProgramEnd> look_at_children() {
    for (;;) {
      int status = 0;
      const pid_t child = ::waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED | __WALL);
      if (child == 0) return std::nullopt;
      if (child < 0 && errno == EINTR) continue;
      if (child < 0) {
        childless_ = true;
        return std::nullopt;
      }
      if (WIFSTOPPED(status) || WIFCONTINUED(status)) {
        if (child == attendance_.receiver.value()) stopped_ = WIFSTOPPED(status);
        if (WIFSTOPPED(status) && attendance_.stopped) attendance_.stopped(HostPid(child), WSTOPSIG(status));
        continue;
      }
      if (auto end = attendance_.ended(HostPid(child), status)) return end;
    }
  }

  void take(const siginfo_t& info) const {
    if (info.si_signo == SIGCHLD || is_ignored(info.si_signo)) return;
    // A tick of our own Patience that was still under way is nobody's signal.
    if (info.si_signo == SIGALRM && info.si_code == SI_TIMER) return;
    // It stands already: this one would stop it again when it goes on.
    if (info.si_signo == SIGTSTP && stopped_) return;
    if (info.si_signo == SIGCONT && attendance_.go_on && attendance_.go_on()) return;
    if (!has_it_already(info, attendance_.receiver)) ::kill(attendance_.receiver.value(), info.si_signo);
  }

  const Attendance& attendance_;
  bool stopped_ = false;
  bool childless_ = false;
};

}  // namespace

bool is_ignored(int signal) {
  if (signal != SIGHUP && signal != SIGINT && signal != SIGQUIT) return false;
  struct sigaction now{};
  return ::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

void hold_signals() {
  const sigset_t set = held_signals();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

ProgramEnd program_end(int wait_status) {
  if (WIFSIGNALED(wait_status)) return {.how = ProgramEnd::How::kSignalled, .value = WTERMSIG(wait_status)};
  return {.how = ProgramEnd::How::kExited, .value = WEXITSTATUS(wait_status)};
}

std::optional<ProgramEnd> wait_for(const Attendance& attendance) { return Waiter(attendance).run(); }

}  // namespace stasis
