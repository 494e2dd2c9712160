// SPDX-License-Identifier: Apache-2.0
// Programs whose memory is still coming after a lazy restart, as others see them.
#pragma once

#include "engine/tree_image.h"

namespace stasis {

// Somebody outside serves page faults of one of its processes: a page server, which will be done soon. (A program that
// does so itself has the descriptor.)
bool is_being_filled(const TreeImage& tree);

}  // namespace stasis
