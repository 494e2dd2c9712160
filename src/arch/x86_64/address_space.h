// SPDX-License-Identifier: Apache-2.0
// The user half of the address space.
#pragma once

#include <cstdint>

namespace stasis::arch {

// TASK_SIZE with 4-level page tables; what lies above needs a hint to mmap(2) and is refused.
inline constexpr std::uint64_t kAddressSpaceEnd = 0x7fff'ffff'f000;

}  // namespace stasis::arch
