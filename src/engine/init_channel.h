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

  // What the tree is, and whether one of its groups had the terminal.
  enum class Terminal { kNotNeeded, kWanted };
  struct Ready {
    RestartReport report;
    Terminal terminal = Terminal::kNotNeeded;
  };
  // Process 1: the tree is ready / could not be made / its root was stopped / its root has ended.
  void send_running(const Ready& ready);
  void send_failure(const Error& error);
  void send_stopped(int signal);
  void send_end(const ProgramEnd& end);
  // kTargetLost: the restart command has ended and nobody wants the program any more.
  enum class Go { kOn, kWithTerminal };
  Result<Go> await_go();

  // The restart command.
  // Errc::kInterrupted once `cancelled` (may be null) is set.
  Result<Ready> await_running(const std::atomic<bool>* cancelled);
  void send_go(Go go);
  // From here on this process gets the signal whenever a message comes.
  void announce_by(int signal);
  struct News {
    std::optional<ProgramEnd> end;
    int stopped_by = 0;  // a signal
  };
  std::optional<News> take_news();

 private:
  UniqueFd socket_;
};

}  // namespace stasis
