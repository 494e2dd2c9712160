// SPDX-License-Identifier: Apache-2.0
// A userfaultfd of another process's memory.
#pragma once

#include "kernel/userfaultfd.h"
#include "tracee/process.h"

namespace stasis {

// Made by the process in a batch, taken over and closed there: afterwards the process has nothing of it, and ours acts
// on its memory as long as we hold it. Not enabled yet. REQUIRES: the gate is open; no other batch is being built.
// Errors: kNotPermitted (kAll needs privilege in the process), kKernelFeature, kSystem where it has no descriptor free.
Result<kernel::Userfaultfd> make_userfaultfd_in(TracedProcess& process, kernel::UffdFaults faults,
                                                const Patience& patience);

}  // namespace stasis
