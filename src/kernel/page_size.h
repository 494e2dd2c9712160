// SPDX-License-Identifier: Apache-2.0
// The page size of this machine; nothing in this program assumes a value.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace stasis::kernel {

// Bytes. Thread-safe.
inline std::uint64_t page_size() {
  static const auto size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

inline std::uint64_t page_down(std::uint64_t address) { return address & ~(page_size() - 1); }
// REQUIRES: address is not in the last page of the 64-bit space.
inline std::uint64_t page_up(std::uint64_t address) { return page_down(address + page_size() - 1); }

}  // namespace stasis::kernel
