// SPDX-License-Identifier: Apache-2.0
// `stasis run`: a program under our eyes: started, or resumed from its image, saved every so often, and saved a last
// time when the batch system wants us gone.
//
//   supervisor ── engine ── minder ── [process 1 of a namespace] ── the program
//
//   supervisor  what the user started: signals, the schedule (a DelayedWork on a Worker), the images' names, the end
//   engine      one thread, an ancestor of the program (Yama lets only those trace it): saves it when told to
//   minder      starts or restarts the program, waits for it, tells its end; never traces it, so no status is lost
//
// If the supervisor is killed the engine goes too, and the minder stays until the program has ended.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "engine/checkpoint.h"
#include "engine/restart_session.h"
#include "resource/restart_context.h"

namespace stasis {

// What happened, for whoever tells the user.
struct RunEvent {
  enum class What {
    kStarted,       // pid
    kResumed,       // pid, image
    kDamaged,       // image could not be read: error; an older one is tried
    kSaved,         // image, report
    kNotSaved,      // error; the program runs on
    kLastSaved,     // SIGTERM: image, report; the program was ended
    kLastNotSaved,  // SIGTERM: error; the program gets the SIGTERM
    kTimeIsUp,      // SIGTERM: the program has not ended in time and is killed
    kNotRun,        // error: the command can't be executed
    kKept,          // the program ended otherwise than with status 0: image stays
  };
  What what;
  HostPid pid{};
  std::string image{};
  const CheckpointReport* report = nullptr;
  const Error* error = nullptr;
};

struct RunRequest {
  std::vector<std::string> command;
  std::string image;
  std::chrono::nanoseconds every = std::chrono::minutes(10);   // from the end of one checkpoint to the next; 0: never
  unsigned keep = 2;                                           // images
  std::chrono::nanoseconds grace = std::chrono::seconds(25);   // from SIGTERM to our end
  std::chrono::nanoseconds timeout = std::chrono::minutes(5);  // for one checkpoint
  Codec codec = Codec::kNone;
  bool track = false;  // the program's writes, so that a checkpoint is a difference to the one before
  FilePolicy files = FilePolicy::kRollback;  // when it goes on from an image
  CheckpointPolicy policy;
  // Never called by two threads at once.
  std::function<void(const RunEvent&)> tell;
};

// Stays until the program has ended, and yields its end; that by SIGTERM after a last checkpoint. A command that can't
// be executed ends with 126 or 127, as in a shell.
// REQUIRES: a process with one thread.
Result<ProgramEnd> run(const RunRequest& request);

}  // namespace stasis
