// SPDX-License-Identifier: Apache-2.0
// LocalBatch: a batch that is run in the calling thread itself. What can be asked of a target is asked of ourselves by
// the same code: what a fresh child inherits, and unit tests without ptrace.
#pragma once

#include <cstddef>
#include <vector>

#include "tracee/gate.h"

namespace stasis {

// Owns its memory; not movable, as batch() points into it. Addresses in the batch are addresses here.
class LocalBatch {
 public:
  LocalBatch();
  LocalBatch(const LocalBatch&) = delete;
  LocalBatch& operator=(const LocalBatch&) = delete;

  Batch& batch() { return batch_; }
  // Runs every call in order; results are in batch(). REQUIRES: no call that only makes sense in a target (munmap of
  // its memory, exit).
  void run();

 private:
  static constexpr std::size_t kSize = Batch::kArenaOffset + (std::size_t{256} << 10);
  std::vector<std::max_align_t> memory_;
  Batch batch_;
};

}  // namespace stasis
