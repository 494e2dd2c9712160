// SPDX-License-Identifier: Apache-2.0
// Layout of the XSAVE area in its standard form, which NT_X86_XSTATE and signal frames share.
// Source: Intel SDM vol. 1 chapter 13; kernel arch/x86/kernel/fpu/{regset,signal}.c.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "stasis/result.h"

namespace stasis::arch {

// Bit of AMX tile data in XCR0 and XSTATE_BV: the one dynamic feature, absent until a program asks for it.
inline constexpr std::uint64_t kXfeatureTileData = std::uint64_t{1} << 18;

// XCR0: the features the kernel has enabled on this machine.
std::uint64_t enabled_xfeatures();
// Bytes of a standard-form area that holds the given features (at least legacy area and header: 576).
std::size_t xstate_size(std::uint64_t features);
// XSTATE_BV of a saved area: the features that are not in their initial state. 0 if the area is too short.
std::uint64_t xstate_in_use(std::span<const std::byte> area);

// The area as a signal frame must hold it, so that rt_sigreturn(2) takes it whole: cut to what the task may own,
// software bytes and trailing magic filled in. The result must be placed at a 64-byte boundary.
Result<std::vector<std::byte>> xstate_for_sigframe(std::span<const std::byte> area);

}  // namespace stasis::arch
