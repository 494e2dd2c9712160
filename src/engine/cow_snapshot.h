// SPDX-License-Identifier: Apache-2.0
// The snapshot that everybody can have: a copy-on-write fork of each process.
#pragma once

#include "engine/snapshot.h"
#include "tracee/patience.h"

namespace stasis {

// Copies each process of the tree that owns its memory. REQUIRES: it is frozen and its gates are open. On an error
// nothing is left of it. kRefused: not of this tree.
Result<std::unique_ptr<Snapshot>> take_cow_snapshot(TreeImage& tree, const Patience& patience);

}  // namespace stasis
