// SPDX-License-Identifier: Apache-2.0
// InitChannel: the few words that a restart and process 1 of the namespace it made say to each other.
#pragma once

#include <optional>
#include <utility>

#include "base/unique_fd.h"
#include "engine/restart_session.h"

namespace stasis {

// One end of a pair; each end is used by one process. A partner that is gone shows as kTargetLost.
class InitChannel {
 public:
  InitChannel() = default;
  static Result<std::pair<InitChannel, InitChannel>> create();

  // Process 1: the tree is ready / could not be made / its root has ended.
  void send_running(const RestartReport& report, bool foreground);
  void send_failure(const Error& error);
  void send_end(const ProgramEnd& end);
  // kTargetLost: the restart command has ended and nobody wants the program any more.
  Result<void> await_go();

  // The restart command.
  // Errc::kInterrupted once `cancelled` (may be null) is set.
  Result<RestartReport> await_running(const std::atomic<bool>* cancelled);
  void send_go();
  // From here on this process gets the signal whenever a message comes.
  void announce_by(int signal);
  std::optional<ProgramEnd> take_end();

 private:
  UniqueFd socket_;
};

}  // namespace stasis
