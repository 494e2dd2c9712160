// SPDX-License-Identifier: Apache-2.0
// get_robust_list(2) of another thread.
#pragma once

#include <cstdint>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

struct RobustList {
  std::uint64_t head = 0;  // address in the thread's process, 0: none
  std::uint64_t length = 0;
};

// Needs ptrace rights (else kNotPermitted); thread gone: kVanished.
Result<RobustList> get_robust_list(HostPid tid);

}  // namespace stasis::kernel
