// SPDX-License-Identifier: Apache-2.0
// RunSocket: what the processes of a `stasis run` say to each other. Messages arrive whole or not at all.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "engine/checkpoint.h"
#include "engine/restart_session.h"

namespace stasis {

enum class RunWord : std::uint32_t {
  kHello = 1,   // minder: this is my pid
  kRunning,     // minder: the program runs, its root is `pid`
  kNotStarted,  // minder: the program could not be started or restarted; `status` is the exit status, 0: ours to choose
  kStopped,     // minder: the program was stopped by signal `status`, and the run is to stop with it
  kEnd,         // minder: the program's end
  kSave,        // to the engine: save the program `pid`; `text`: image that this may be a difference to
  kSaved,       // engine: done, see `report`
  kFailed,      // engine: not done
  kBye,         // to the engine: the minder has told an end, this run is over
};

// Plain bytes: both ends are the same program.
struct RunMessage {
  RunWord word{};
  std::int32_t pid = 0;
  std::int32_t status = 0;
  ProgramEnd end;
  AfterCheckpoint after{};
  std::int64_t timeout_ns = 0;
  CheckpointReport report;
  Errc code{};
  char text[2048] = {};
  char help[512] = {};

  // Of kSave. Too long a path: none.
  void set_parent(const std::string& path);
  std::string parent() const { return text; }

  // REQUIRES: kNotStarted or kFailed.
  Error error() const;
  static RunMessage of(RunWord word, const Error& error);
};

// One end. One thread at a time sends, one receives.
class RunSocket {
 public:
  RunSocket() = default;
  static Result<std::pair<RunSocket, RunSocket>> create_pair();

  // Fails with kTargetLost when there is nobody at the other end.
  Result<void> send(const RunMessage& message) const;
  // The next message; nothing: the other end is gone.
  std::optional<RunMessage> receive() const;
  int fd() const { return socket_.get(); }
  void close() { socket_.reset(); }

 private:
  UniqueFd socket_;
};

}  // namespace stasis
