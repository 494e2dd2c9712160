// SPDX-License-Identifier: Apache-2.0
// Devices whose openings are all alike: /dev/null and its kin.
#pragma once

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace stasis {

// Character devices of drivers/char/mem.c whose openings have no state.
inline bool is_stateless_device(std::uint32_t mode, std::uint64_t device_number) {
  constexpr std::array kMinors = {3u, 5u, 7u, 8u, 9u};  // null, zero, full, random, urandom
  return S_ISCHR(mode) && major(device_number) == 1 &&
         std::ranges::find(kMinors, minor(device_number)) != kMinors.end();
}

}  // namespace stasis
