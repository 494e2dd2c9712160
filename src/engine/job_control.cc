// SPDX-License-Identifier: Apache-2.0
#include "engine/job_control.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include "base/file.h"

namespace stasis {
namespace {

// Who is in the background may change the terminal only so.
class IgnoreTerminalOutput {
 public:
  IgnoreTerminalOutput() : previous_(::signal(SIGTTOU, SIG_IGN)) {}
  ~IgnoreTerminalOutput() { ::signal(SIGTTOU, previous_); }
  IgnoreTerminalOutput(const IgnoreTerminalOutput&) = delete;
  IgnoreTerminalOutput& operator=(const IgnoreTerminalOutput&) = delete;

 private:
  sighandler_t previous_;
};

// tcgetsid(3) fails for every terminal but the controlling one. (In a pid namespace the session may have no number.)
int standard_terminal() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::isatty(fd) && ::tcgetsid(fd) >= 0) return fd;
  }
  return -1;
}

std::optional<TerminalSettings> settings_of(int terminal) {
  auto settings = get_settings(terminal);
  if (!settings) return std::nullopt;
  return *std::move(settings);
}

bool is_pending(int signal) {
  sigset_t pending;
  sigemptyset(&pending);
  ::sigpending(&pending);
  return sigismember(&pending, signal) == 1;
}

void discard(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  const timespec now{};
  while (is_pending(signal) && ::sigtimedwait(&set, nullptr, &now) > 0) {
  }
}

}  // namespace

TerminalLoan::TerminalLoan() : proc_(::open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

std::optional<kernel::ProcStat> TerminalLoan::look_at(HostPid pid) const {
  const auto text = read_file(proc_.get(), fmt::format("{}/stat", pid.value()));
  auto stat = text ? kernel::parse_stat(*text) : Result<kernel::ProcStat>(text.error());
  if (!stat) return std::nullopt;
  return *std::move(stat);
}

// Of a process above us in our session.
bool TerminalLoan::is_shells(pid_t group) const {
  for (pid_t pid = ::getppid(); pid > 0;) {
    const auto stat = look_at(HostPid(pid));
    if (!stat || stat->session != ::getsid(0)) return false;
    if (stat->pgrp == group) return true;
    pid = stat->ppid;
  }
  return false;
}

int TerminalLoan::terminal() {
  if (terminal_ >= 0) return terminal_;
  terminal_ = standard_terminal();
  if (terminal_ < 0) {
    own_ = UniqueFd(::open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC));
    terminal_ = own_.get();
  }
  return terminal_;
}

bool TerminalLoan::is_at(HostPid group) {
  const int fd = terminal();
  return fd >= 0 && ::tcgetpgrp(fd) == (group ? group.value() : ::getpgrp());
}

void TerminalLoan::lend_modes() {
  const IgnoreTerminalOutput scope;
  ours_ = settings_of(terminal());
  lent_ = true;
  if (programs_) static_cast<void>(set_modes(terminal(), *programs_));
  other_size_ = ours_ && programs_ && (ours_->rows != programs_->rows || ours_->columns != programs_->columns);
  programs_.reset();
}

bool TerminalLoan::lend_to(HostPid group) {
  lend_modes();
  const IgnoreTerminalOutput scope;
  if (group_ && group_.value() != ::getpgrp() && ::tcsetpgrp(terminal(), group_.value()) == 0) return true;
  if (!group || group.value() == ::getpgrp() || ::tcsetpgrp(terminal(), group.value()) == 0) return true;
  take_back();
  return false;
}

void TerminalLoan::take_back() {
  if (!lent_) return;
  lent_ = false;
  const pid_t group = ::tcgetpgrp(terminal_);
  if (group != ::getpgrp() && is_shells(group)) return;
  const IgnoreTerminalOutput scope;
  programs_ = settings_of(terminal_);
  if (group != ::getpgrp()) {
    group_ = HostPid(group);
    ::tcsetpgrp(terminal_, ::getpgrp());
  }
  if (ours_) static_cast<void>(set_modes(terminal_, *ours_));
}

void move_terminal_to(HostPid group) {
  const IgnoreTerminalOutput scope;
  int terminal = standard_terminal();
  const UniqueFd own(terminal < 0 ? ::open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC) : -1);
  if (own) terminal = own.get();
  if (terminal >= 0 && group) ::tcsetpgrp(terminal, group.value());
}

bool stop_like(HostPid program, int signal) {
  const int stop = signal == SIGSTOP ? SIGTSTP : signal;
  const bool one_of_us = ::getpgid(program.value()) == ::getpgrp();
  sigset_t set, before;
  sigemptyset(&set);
  sigaddset(&set, stop);
  discard(SIGCONT);
  ::pthread_sigmask(SIG_BLOCK, &set, &before);
  discard(stop);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  // Not again, if the terminal's own signal has come only now.
  if (!is_pending(SIGCONT)) ::kill(one_of_us ? ::getpid() : 0, stop);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return is_pending(SIGCONT);
}

// 0: ours.
HostPid JobControl::group() const {
  const pid_t group = ::getpgid(root_.value());
  return group < 0 || group == ::getpgrp() ? HostPid{} : HostPid(group);
}

void JobControl::let_program_go_on() const {
  if (const HostPid other = group()) {
    ::kill(-other.value(), SIGCONT);
  } else if (const auto stat = loan_.look_at(root_);
             stat && stat->state == 'T') {  // else the shell has sent it to all of us
    ::kill(root_.value(), SIGCONT);
  }
}

void JobControl::stopped(int signal) {
  if (loan_.terminal() < 0) return;
  if (signal == SIGTTIN || signal == SIGTTOU) {
    // It has the terminal by now, or may have it.
    if (loan_.is_at(group()) || (loan_.is_ours() && loan_.lend_to(group()))) return let_program_go_on();
  }
  stands_ = true;
  loan_.take_back();
  stop_(signal);
}

bool JobControl::go_on() {
  if (!stands_) return false;
  stands_ = false;
  if (loan_.is_ours()) loan_.lend_to(group());
  let_program_go_on();
  return true;
}

}  // namespace stasis
