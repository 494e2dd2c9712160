// SPDX-License-Identifier: Apache-2.0
// Snapshots: how a tree runs on while its pages are still being written, so that it is frozen for milliseconds only.
#pragma once

#include <cstdint>
#include <memory>
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
  // REQUIRES: it owns its memory. Lives as long as the snapshot.
  virtual const PageSource& pages_of(const ProcessImage& process) const = 0;
};

}  // namespace stasis
