// SPDX-License-Identifier: Apache-2.0
// STASIS_WITHOUT=name,name: features of the kernel that are to be taken for missing, so that every fallback can be
// tested on any kernel. The names are those of probe.h.
#pragma once

#include <string_view>

namespace stasis::kernel {

// Is `feature` in STASIS_WITHOUT? The variable is read once.
bool without(std::string_view feature) noexcept;
// Is `feature` one of the names in `list` (separated by commas)?
bool names_feature(std::string_view list, std::string_view feature) noexcept;

}  // namespace stasis::kernel
