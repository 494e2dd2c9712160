// SPDX-License-Identifier: Apache-2.0
// The checkpoint operation: `stasis checkpoint` and the library's helper process run this.
#pragma once

#include <atomic>
#include <chrono>
#include <string>

#include "base/ids.h"
#include "engine/snapshot.h"
#include "resource/checkpoint_context.h"
#include "stasis/image.h"

namespace stasis {

enum class AfterCheckpoint { kLeaveRunning, kKill, kStop };

class TrackedTree;

struct CheckpointRequest {
  HostPid pid;
  std::string output;       // path, or "-" for standard output
  std::string parent;       // path of the image to be a difference to; empty: none
  std::string parent_name;  // what the image calls it; empty: by its name or its path
  AfterCheckpoint after = AfterCheckpoint::kLeaveRunning;
  TrackedTree* tracked = nullptr;  // knows what was written since the parent: nothing is compared; null: nobody does
  SnapshotMode snapshot = SnapshotMode::kAuto;  // of a program that is left running; others stand until the end
  Codec codec = Codec::kNone;
  std::chrono::nanoseconds timeout = std::chrono::seconds(10);  // for the freeze
  CheckpointPolicy policy;
  ProgressHook progress;
  const std::atomic<bool>* cancelled = nullptr;
};

struct CheckpointReport {
  std::int64_t freeze_us = 0;  // from the first stop to the last resume
  std::int64_t total_us = 0;
  SnapshotMode snapshot = SnapshotMode::kFreeze;  // what was done
  std::uint64_t processes = 0;
  std::uint64_t threads = 0;
  std::uint64_t pages = 0;            // of memory, saved
  std::uint64_t inherited_pages = 0;  // of those, in the parent image
  bool tracked = false;               // by the kernel's word, not compared
  std::uint64_t written_pages = 0;    // of tracked memory, since the parent
  std::uint64_t bytes = 0;            // of the image
};

// Saves the tree below a process. On any failure the tree runs on untouched and no image appears.
// REQUIRES: a process of its own, with one thread (it traces, and waits for tracees).
Result<CheckpointReport> checkpoint(const CheckpointRequest& request);

}  // namespace stasis
