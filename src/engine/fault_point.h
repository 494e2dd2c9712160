// SPDX-License-Identifier: Apache-2.0
// Numbered fault points, one per stage: STASIS_FAULT=N makes the N-th point that is passed (from 1) fail. Tests loop N
// until nothing fails any more, and look at the target after each run.
#pragma once

#include <string_view>

#include "stasis/result.h"

namespace stasis {

Result<void> fault_point(std::string_view stage);

}  // namespace stasis
