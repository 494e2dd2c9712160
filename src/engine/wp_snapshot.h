// SPDX-License-Identifier: Apache-2.0
// The snapshot of a privileged program: its memory is write-protected, and what is about to be written is saved first.
#pragma once

#include "engine/snapshot.h"
#include "tracee/patience.h"

namespace stasis {

// Will it be permitted? As far as can be told before.
bool may_take_wp_snapshot(const TreeImage& tree);

// Protects the memory of each process of the tree that owns some. REQUIRES: it is frozen and its gates are open. On an
// error nothing is left of it. Errors: those of make_userfaultfd_in().
Result<std::unique_ptr<Snapshot>> take_wp_snapshot(TreeImage& tree, const Patience& patience);

}  // namespace stasis
