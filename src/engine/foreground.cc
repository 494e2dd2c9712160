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

sigset_t passed_on(bool with_child) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kPassedOn) sigaddset(&set, signal);
  if (with_child) sigaddset(&set, SIGCHLD);
  return set;
}

// The terminal sends its signals to the whole foreground group: a program in our group has it already.
bool has_it_already(const siginfo_t& info, HostPid receiver) {
  return info.si_code == SI_KERNEL && ::getpgid(receiver.value()) == ::getpgrp();
}

}  // namespace

void hold_signals() {
  const sigset_t set = passed_on(true);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

ProgramEnd program_end(int wait_status) {
  if (WIFSIGNALED(wait_status)) return {.how = ProgramEnd::How::kSignalled, .value = WTERMSIG(wait_status)};
  return {.how = ProgramEnd::How::kExited, .value = WEXITSTATUS(wait_status)};
}

std::optional<ProgramEnd> wait_for(HostPid receiver, const ChildEnded& ended, const News& news) {
  const sigset_t set = passed_on(true);
  for (;;) {
    if (news) {
      if (auto end = news()) return end;
    }
    for (;;) {
      int status = 0;
      const pid_t child = ::waitpid(-1, &status, WNOHANG | __WALL);
      if (child == 0) break;
      if (child < 0 && errno == EINTR) continue;
      if (child < 0) return std::nullopt;
      if (WIFSTOPPED(status)) continue;
      if (auto end = ended(HostPid(child), status)) return end;
    }
    siginfo_t info{};
    if (::sigwaitinfo(&set, &info) < 0 || info.si_signo == SIGCHLD) continue;
    // A tick of our own Patience that was still under way is nobody's signal.
    if (info.si_signo == SIGALRM && info.si_code == SI_TIMER) continue;
    if (!has_it_already(info, receiver)) ::kill(receiver.value(), info.si_signo);
  }
}

void TerminalLoan::give_to(HostPid group) {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (!::isatty(fd) || ::tcgetpgrp(fd) != ::getpgrp()) continue;
    const auto previous = ::signal(SIGTTOU, SIG_IGN);
    if (::tcsetpgrp(fd, group.value()) == 0) terminal_ = fd;
    ::signal(SIGTTOU, previous);
    return;
  }
}

TerminalLoan::~TerminalLoan() {
  if (terminal_ < 0) return;
  const auto previous = ::signal(SIGTTOU, SIG_IGN);
  ::tcsetpgrp(terminal_, ::getpgrp());
  ::signal(SIGTTOU, previous);
}

}  // namespace stasis
