// SPDX-License-Identifier: Apache-2.0
// Parts of a slot on their way into a gate that is not shared and back, by one call each.
#pragma once

#include <span>
#include <vector>

#include "kernel/process_memory.h"
#include "tracee/gate.h"

namespace stasis {

// The control block's first word says whether the batch ends at an error: a part of every head.
inline constexpr Batch::Extent kFirstWord{.begin = 0, .end = sizeof(std::uint64_t)};

// `memory`: of the process that the slot is in.
Result<void> push_parts(const kernel::ProcessMemory& memory, const GateSlot& slot,
                        std::span<const Batch::Extent> parts);
// What the batch uses. `head`: what else must go along; of a slot that is there already its first word.
// Parts of one slot among those of several that are moved by one call.
struct SlotPart {
  GateSlot slot;
  Batch::Extent part;
};
Result<void> push_parts(const kernel::ProcessMemory& memory, std::span<const SlotPart> parts);
Result<void> pull_parts(const kernel::ProcessMemory& memory, std::span<const SlotPart> parts);
// What stands in front of a batch, and its parts.
void append_batch(std::vector<SlotPart>& parts, const Batch& batch);

Result<void> push_batch(const kernel::ProcessMemory& memory, const Batch& batch, Batch::Extent head = kFirstWord);
Result<void> pull_batch(const kernel::ProcessMemory& memory, const Batch& batch);

}  // namespace stasis
