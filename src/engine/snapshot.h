// SPDX-License-Identifier: Apache-2.0
// Snapshots: how a tree runs on while its pages are still being written, so that it is frozen for milliseconds only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "engine/tree_image.h"
#include "resource/memory/page_source.h"

namespace stasis {

// The names are those of the command line; see name_of().
enum class SnapshotMode : std::uint8_t {
  kAuto,     // what is best for this tree
  kCow,      // a copy-on-write fork of each process
  kWp,       // the memory is write-protected; what is written to is saved first (root)
  kPrecopy,  // copied while the tree runs, what has changed again in the freeze
  kFreeze,   // none: the tree stands until its pages are written
};

std::string_view name_of(SnapshotMode mode);

// The pages of a tree as they were when it was taken. Dropping it leaves nothing of it.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  // Which of the process's own pages it holds: the others must be saved in the freeze.
  virtual std::vector<PageRun> held(const ProcessImage& process) const = 0;
  // Of a process that owns its memory, and what shall be read of it. Lives as long as the snapshot. Error: it is not
  // there.
  virtual Result<const PageSource*> pages_of(const ProcessImage& process, std::span<const PageRun> wanted) const = 0;
  // What is read of it is nothing: it must be taken again, in another way.
  virtual bool spoiled() const { return false; }
  // Nothing is read any more.
  virtual void end() {}
};

}  // namespace stasis
