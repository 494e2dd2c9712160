// SPDX-License-Identifier: Apache-2.0
// /proc/PID/task/TID/children (man 5 proc, CONFIG_PROC_CHILDREN): children that this thread created. Complete only
// while all of them are stopped or frozen.
#pragma once

#include <string_view>
#include <vector>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

Result<std::vector<HostPid>> parse_children(std::string_view text);

}  // namespace stasis::kernel
