// SPDX-License-Identifier: Apache-2.0
// gather_open_files(): who holds what of which file, over all processes of the tree.
#pragma once

#include <span>

#include "kernel/proc_dir.h"
#include "resource/open_file/open_file.h"

namespace stasis {

// A process as this layer needs it. All borrowed; no pidfd: nothing is held.
struct ProcessHandle {
  const kernel::ProcDir* proc = nullptr;
  const UniqueFd* pidfd = nullptr;
  const std::vector<kernel::Vma>* vmas = nullptr;  // null: its mappings are not looked at
  const kernel::ProcStat* stat = nullptr;          // as it is now; null: to be read
};

enum class Hold {
  kTake,  // keep a duplicate of every open file description (needs ptrace rights and a free descriptor for each)
  kDont,  // `stasis check`: only look
};

// All descriptors of all processes, their open file descriptions told apart by kcmp. Costs some 15 us per descriptor.
// `outside`: an earlier table's, so that the scan of all of /proc need not be repeated in the freeze; only what it does
// not cover is scanned for. Descriptors that a running process closes meanwhile are left out.
// Errors: those of ProcDir and kcmp; kVanished when a process is gone.
Result<OpenFileTable> gather_open_files(std::span<const ProcessHandle> processes, Hold hold,
                                        const OutsideHolders* outside = nullptr);

}  // namespace stasis
