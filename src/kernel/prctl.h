// SPDX-License-Identifier: Apache-2.0
// prctl(2) operations that the floor's headers lack (include/uapi/linux/prctl.h). Kernels that lack them answer EINVAL.
#pragma once

#include <sys/prctl.h>

namespace stasis::kernel {

inline constexpr int kSetMdwe = 65;                // Linux 6.3
inline constexpr int kGetMdwe = 66;                // Linux 6.3
inline constexpr int kSetMemoryMerge = 67;         // Linux 6.4
inline constexpr int kGetMemoryMerge = 68;         // Linux 6.4
inline constexpr int kTimerCreateRestoreIds = 77;  // Linux 6.15
inline constexpr int kTimerRestoreIdsOff = 0;
inline constexpr int kTimerRestoreIdsOn = 1;
inline constexpr int kTimerRestoreIdsGet = 2;

}  // namespace stasis::kernel
