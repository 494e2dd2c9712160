// SPDX-License-Identifier: Apache-2.0
// The clocks of this machine and which boot they belong to.
#pragma once

#include <cstdint>
#include <string>

#include "stasis/result.h"

namespace stasis::kernel {

// Nanoseconds, read one right after the other. Monotonic and boot time are those of the caller's time namespace.
struct Clocks {
  std::int64_t realtime_ns = 0;
  std::int64_t monotonic_ns = 0;
  std::int64_t boottime_ns = 0;
};
Clocks read_clocks() noexcept;

// /proc/sys/kernel/random/boot_id, 36 characters.
Result<std::string> boot_id();

}  // namespace stasis::kernel
