// SPDX-License-Identifier: Apache-2.0
// A whole `stasis restart`: which pids, which namespaces, whose rights, foreground or background.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <string>

#include "engine/restart.h"

namespace stasis {

enum class PidsPolicy { kAuto, kKeep, kNamespace };
enum class Detach { kNo, kYes };

struct RestartRequest {
  std::string image;  // path, or "-" for standard input
  PidsPolicy pids = PidsPolicy::kAuto;
  Detach detach = Detach::kNo;
  enum class Filling { kBefore, kLazy };  // large memory: before the program runs, or while it does
  Filling filling = Filling::kBefore;
  std::string pidfile;  // gets the root's pid as the caller sees it; empty: none
  RestartPolicy policy;
  std::chrono::nanoseconds timeout = std::chrono::seconds(30);
  const std::atomic<bool>* cancelled = nullptr;
  // Called while memory is filled before the program runs, and when that is over, well or not: by a child process of
  // the caller's where the program gets namespaces of its own.
  ProgressHook progress;
  std::function<void()> filled;
  // Called once the tree is about to run.
  std::function<void(HostPid root, const RestartReport&)> running;
  // Called when the program was stopped and we are to stop too, so that whoever waits for us learns of it (see
  // job_control.h). Default: this process stops.
  std::function<void(HostPid root, int signal)> stopped;
};

// How the program ended.
struct ProgramEnd {
  enum class How { kDetached, kExited, kSignalled };
  How how = How::kDetached;
  int value = 0;  // exit status or signal
};

// Restarts the image and, in the foreground, stays until its root has ended, passing signals on.
// REQUIRES: a process of its own with one thread; it may end up in other namespaces.
Result<ProgramEnd> restart(const RestartRequest& request);

}  // namespace stasis
