// SPDX-License-Identifier: Apache-2.0
// Restartable sequences (Documentation: man rseq(2), include/uapi/linux/rseq.h).
#pragma once

#include "base/ids.h"
#include "kernel/process_memory.h"
#include "kernel/ptrace.h"
#include "tracee/thread.h"

namespace stasis {

// A thread stopped inside a critical section would lose the kernel's notice of it as soon as it runs anything else. So
// it is moved to the section's abort handler, as the kernel does with a thread that was preempted there. Returns its
// registration. (One that waits in a system call is in no section: none may hold a call.)
Result<kernel::RseqConfiguration> settle_rseq(const kernel::ProcessMemory& memory, TracedThread& thread);

}  // namespace stasis
