// SPDX-License-Identifier: Apache-2.0
// Device numbers as the kernel prints and hands them out in 32 bits (new_encode_dev() in linux/kdev_t.h).
#pragma once

#include <sys/sysmacros.h>

#include <cstdint>

namespace stasis::kernel {

// The dev_t of 32 bits: minor bits 0-7 and 20-31, major bits 8-19.
inline std::uint64_t decode_device(std::uint32_t bits) {
  constexpr std::uint32_t kMajorMask = (1u << 20) - (1u << 8);
  return makedev((bits & kMajorMask) >> 8, (bits & 0xff) | (bits >> 20 << 8));
}

}  // namespace stasis::kernel
