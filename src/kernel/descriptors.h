// SPDX-License-Identifier: Apache-2.0
// Calls on descriptors of this process: memfd_create(2), close_range(2).
#pragma once

#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis::kernel {

inline constexpr unsigned kMfdNoExecSeal = 0x8;  // Linux 6.3
inline constexpr unsigned kMfdExec = 0x10;       // Linux 6.3

// An empty anonymous file; flags MFD_*, to which MFD_CLOEXEC is added. Where the kernel asks for a choice, the file is
// executable only with MFD_EXEC (older kernels do not know that flag and make every file executable).
Result<UniqueFd> memfd_create(const char* name, unsigned flags = 0);

// Closes first..last, both included. Linux 5.9.
Result<void> close_range(unsigned first, unsigned last);

}  // namespace stasis::kernel
