// SPDX-License-Identifier: Apache-2.0
// arch_prctl(2) operations on what a task may execute (arch/x86/include/uapi/asm/prctl.h).
#pragma once

#include <sys/syscall.h>

namespace stasis::arch {

inline constexpr long kArchPrctl = SYS_arch_prctl;
// Per thread: 1 where CPUID works, 0 where it faults.
inline constexpr int kGetCpuid = 0x1011;
inline constexpr int kSetCpuid = 0x1012;
// Per address space: linear address masking. The mask of address bits that count; all ones when off.
inline constexpr int kGetUntagMask = 0x4001;
inline constexpr int kEnableTaggedAddresses = 0x4002;

}  // namespace stasis::arch
