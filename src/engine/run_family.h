// SPDX-License-Identifier: Apache-2.0
// The other processes of a `stasis run`: engine and minder (see run.h).
#pragma once

#include <signal.h>

#include <atomic>

#include "base/unique_fd.h"
#include "engine/run.h"
#include "engine/run_socket.h"

namespace stasis {

// A flag that several processes see.
class SharedFlag {
 public:
  static Result<SharedFlag> create();
  SharedFlag(SharedFlag&& other) noexcept : flag_(std::exchange(other.flag_, nullptr)) {}
  SharedFlag& operator=(SharedFlag&&) = delete;
  ~SharedFlag();
  std::atomic<bool>& operator*() const { return *flag_; }

 private:
  explicit SharedFlag(std::atomic<bool>* flag) : flag_(flag) {}
  std::atomic<bool>* flag_;
};

// The signal state that the program inherits: as it was when we were started.
class SignalState {
 public:
  // Notes it, then blocks what hold_signals() blocks and makes SIGPIPE and SIGCHLD ours.
  static SignalState take();
  // In a child that is about to run the program.
  void restore() const;

 private:
  sigset_t mask_{};
  struct sigaction pipe_{}, child_{};
};

// Engine and minder, and the supervisor's ends of the lines to them.
struct RunFamily {
  HostPid engine_pid;
  RunSocket engine;
  RunSocket minder;

  // `image`: what to restart; empty: the command is started. `cancelled` ends a checkpoint that is going on.
  // REQUIRES: one thread; SignalState::take() was called.
  static Result<RunFamily> launch(const RunRequest& request, const std::string& image, const SignalState& signals,
                                  const std::atomic<bool>& cancelled);
};

}  // namespace stasis
