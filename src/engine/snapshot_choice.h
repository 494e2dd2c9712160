// SPDX-License-Identifier: Apache-2.0
// What `--snapshot auto` takes, by what is known of the tree (doc/performance.md says why).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/snapshot.h"

namespace stasis {

// From so many bytes on, writing them takes long enough to be noticed: worth a pre-copy, or protection.
inline constexpr std::uint64_t kMuchToSave = std::uint64_t{256} << 20;

struct ToBeSaved {
  std::uint64_t bytes = 0;
  std::size_t processes = 1;
  bool may_be_protected = true;  // nothing forbids to try
};
// What to try, the best first. To write a little takes less time than a fork; to protect much takes less than to fork
// it.
std::vector<SnapshotMode> ways_to_try(const ToBeSaved& saved);

// Pre-copy of `bytes`, of which more than this was written in its last round, is given up. `protects`: memory may be
// protected instead, which takes a hundredth of the time of reading it.
std::uint64_t too_much_written(std::uint64_t bytes, bool protects);

}  // namespace stasis
