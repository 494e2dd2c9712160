// SPDX-License-Identifier: Apache-2.0
// Standing by a program that was started or restarted: signals go to it, its end comes to us. (For the terminal, and
// for stopping and going on together, see job_control.h.)
#pragma once

#include <functional>
#include <optional>

#include "base/ids.h"
#include "engine/restart_session.h"

namespace stasis {

// Blocks the signals that are passed on, so that none is lost between here and wait_for(). Idempotent.
void hold_signals();

// Was the signal SIGHUP, SIGINT or SIGQUIT, and are we to ignore it (nohup(1), a shell's job in the background)? Then
// the program is spared as well.
bool is_ignored(int signal);

struct Attendance {
  HostPid receiver;  // signals are passed on to it
  // Called for each child that ended (wait status); returns the end of the program once it is known.
  std::function<std::optional<ProgramEnd>(HostPid child, int status)> ended;
  // Called when a child was stopped.
  std::function<void(HostPid child, int signal)> stopped = {};
  // Asked whenever a signal came: news from elsewhere.
  std::function<std::optional<ProgramEnd>()> news = {};
  // Asked when SIGCONT came: true, and it is not passed on.
  std::function<bool()> go_on = {};
};
// Passes signals on until `ended` or `news` yields something or no child is left.
std::optional<ProgramEnd> wait_for(const Attendance& attendance);

ProgramEnd program_end(int wait_status);

}  // namespace stasis
