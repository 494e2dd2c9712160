// SPDX-License-Identifier: Apache-2.0
// Two instruction sequences of the target's own code that make the first and the last foreign call safe.
//
// Before the gate stands (and when it is taken down) a call must be made through code the target already has. If the
// coordinator is killed during such a call, the thread returns from it and runs on with foreign registers. So the call
// is made at a `syscall; ret` with the stack pointer on a signal frame whose first word is the address of a signal
// restorer: the thread then returns into rt_sigreturn and is back where it was, exactly as after a signal handler.
//
// The frame lies below the red zone of the main stack, where the kernel itself would put a signal frame. Threads on
// other stacks (coroutines may have tiny ones) are not given frames.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel/proc_maps.h"
#include "kernel/process_memory.h"

namespace stasis {

struct Gadgets {
  std::uint64_t syscall = 0;         // a syscall instruction; 0 if none was found
  std::uint64_t syscall_return = 0;  // `syscall; ret`, or 0
  std::uint64_t restorer = 0;        // `mov $15,%rax; syscall`, or 0

  bool safe() const { return syscall_return != 0 && restorer != 0; }
};

// Searches the executable file mappings, the C library first, at most some 10 MiB. May run before the freeze, as text
// does not change; the caller makes sure (same_layout) that the mappings are still there. Reads only.
Gadgets find_gadgets(const kernel::ProcessMemory& memory, const std::vector<kernel::Vma>& vmas);

}  // namespace stasis
