// SPDX-License-Identifier: Apache-2.0
// The program as a job of the shell, or whoever started us: it has the terminal while it is in the foreground, and when
// it stops we stop too, so that the shell has its prompt; SIGCONT lets both go on. As shells do it (termios(3),
// credentials(7); "Implementing a Job Control Shell" of the GNU C library's manual).
#pragma once

#include <functional>
#include <optional>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "kernel/proc_stat.h"
#include "resource/terminal/pty.h"

namespace stasis {

// Our controlling terminal, lent to a process group and taken back, at the latest when this goes; its modes are ours
// again then.
class TerminalLoan {
 public:
  // Before other namespaces are entered.
  TerminalLoan();
  TerminalLoan(const TerminalLoan&) = delete;
  TerminalLoan& operator=(const TerminalLoan&) = delete;
  ~TerminalLoan() { take_back(); }

  // What the program had at its terminal, for the first time that it is lent.
  void expect(TerminalSettings settings) { programs_ = std::move(settings); }
  // A descriptor of the terminal; -1: we have none.
  int terminal();
  // Is our process group in its foreground?
  bool is_ours() { return is_at(HostPid{}); }
  // Is that group? 0: ours.
  bool is_at(HostPid group);
  // To the group that had it last, or else to this one (0: a part of our own group). REQUIRES: is_ours().
  bool lend_to(HostPid group);
  // The same but for the group, which process 1 of a namespace moves there. REQUIRES: is_ours().
  void lend_modes();
  // The terminal is lent and of another size than the program knows.
  bool has_other_size() const { return lent_ && other_size_; }
  // Not from a shell that has taken it meanwhile.
  void take_back();
  // Somebody in our pid namespace, even if another /proc has been mounted over ours since; nothing: gone.
  std::optional<kernel::ProcStat> look_at(HostPid pid) const;

 private:
  bool is_shells(pid_t group) const;

  UniqueFd proc_;
  UniqueFd own_;  // where no standard stream is the terminal
  int terminal_ = -1;
  bool lent_ = false;
  bool other_size_ = false;
  HostPid group_;                             // that had it last
  std::optional<TerminalSettings> ours_;      // while it is lent
  std::optional<TerminalSettings> programs_;  // while it is not
};

// In process 1 of a namespace, which alone can name the group.
void move_terminal_to(HostPid group);

// Stops us, and all of our group unless the program is one of it (the terminal has stopped them then), by that signal,
// or SIGTSTP for SIGSTOP. True: we were stopped and SIGCONT is pending. False: nobody could have woken us (an orphaned
// group).
// REQUIRES: hold_signals() was called.
bool stop_like(HostPid program, int signal);

class JobControl {
 public:
  // `stop`: how we stop when the program has; it may return before SIGCONT comes.
  JobControl(TerminalLoan& loan, HostPid root, std::function<void(int signal)> stop)
      : loan_(loan), root_(root), stop_(std::move(stop)) {}

  // The root was stopped. Nothing happens where there is no terminal.
  void stopped(int signal);
  // SIGCONT came. False: the program did not stand, as far as we know.
  bool go_on();

 private:
  HostPid group() const;
  void let_program_go_on() const;

  TerminalLoan& loan_;
  HostPid root_;
  std::function<void(int)> stop_;
  bool stands_ = false;
};

}  // namespace stasis
