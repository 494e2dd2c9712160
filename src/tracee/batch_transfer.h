// SPDX-License-Identifier: Apache-2.0
// What a batch uses of its slot, on its way into a gate that is not shared and back.
#pragma once

#include "kernel/process_memory.h"
#include "tracee/gate.h"

namespace stasis {

// `memory`: of the process that runs it.
Result<void> push_batch(const kernel::ProcessMemory& memory, const Batch& batch);
Result<void> pull_batch(const kernel::ProcessMemory& memory, const Batch& batch);

}  // namespace stasis
