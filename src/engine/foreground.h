// SPDX-License-Identifier: Apache-2.0
// Standing by a program that was restarted: signals go to it, its end comes to us, the terminal goes back and forth.
#pragma once

#include <functional>
#include <optional>

#include "base/ids.h"
#include "engine/restart_session.h"

namespace stasis {

// Blocks the signals that are passed on, so that none is lost between here and wait_for(). Idempotent.
void hold_signals();

// Called for each child that ended (wait status); returns the end of the program once it is known.
using ChildEnded = std::function<std::optional<ProgramEnd>(HostPid child, int status)>;
// Asked whenever a signal came: news from elsewhere.
using News = std::function<std::optional<ProgramEnd>()>;
// Passes signals on to `receiver` until `ended` or `news` yields something or no child is left.
std::optional<ProgramEnd> wait_for(HostPid receiver, const ChildEnded& ended, const News& news = {});

ProgramEnd program_end(int wait_status);

// Gives the terminal to a process group if it is ours to give / takes it back when this goes.
class TerminalLoan {
 public:
  TerminalLoan() = default;
  TerminalLoan(const TerminalLoan&) = delete;
  TerminalLoan& operator=(const TerminalLoan&) = delete;
  ~TerminalLoan();
  void give_to(HostPid group);

 private:
  int terminal_ = -1;
};

}  // namespace stasis
