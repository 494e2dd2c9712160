// SPDX-License-Identifier: Apache-2.0
// The restart operation proper: from an open image to a running tree. Namespaces, foreground and background are the
// business of restart_session.h.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "engine/lazy/lazy_restart.h"
#include "resource/restart_context.h"
#include "stasis/image.h"

namespace stasis {

// Which pids the tree gets.
enum class TreePids {
  kOld,   // those of the image, in the caller's pid namespace (or in the new one it is process 1 of)
  kFresh  // the kernel's choice: never used for images, for tests only
};

struct RestartReport {
  std::int64_t total_us = 0;
  std::uint64_t processes = 0;
  std::uint64_t threads = 0;
  std::uint64_t pages = 0;
  std::uint64_t lazy_pages = 0;  // to come while it runs
  std::uint64_t bytes = 0;
  std::uint64_t objects = 0;
  std::int64_t clear_us = 0;  // dropping all references before the tasks ran
};

// What the caller gets to hold of a tree that runs.
struct RestoredTree {
  HostPid root;
  std::optional<HostPid> foreground_group;  // the group that had the terminal, if one of the tree's had
  RestartReport report;
};

struct RestartTreeRequest {
  RestartPolicy policy;
  std::chrono::nanoseconds timeout = std::chrono::seconds(30);
  const std::atomic<bool>* cancelled = nullptr;
  ImageOwner owner;  // whose rights the image carries
  // Large private memory is handed over to it; null: all is filled before the program runs. In namespaces of our own it
  // knows process 1 already.
  LazyRestart* lazy = nullptr;
  // Called when all memory is filled, or nothing is filled any more because the restart failed (perhaps twice).
  std::function<void()> filled;
  // Called when the tree stands ready to run; an error ends the restart as any other does.
  std::function<Result<void>(const RestoredTree&)> before_release;
};

// Pids and tids that the image needs, without restoring anything.
Result<std::vector<ImagePid>> image_pids(const ImageReader& image);

// Makes the tree as children of the calling process and lets it run. On any failure nothing of it is left.
// REQUIRES: a process of one thread.
Result<RestoredTree> restart_tree(ImageReader& image, const RestartTreeRequest& request);

}  // namespace stasis
