// SPDX-License-Identifier: Apache-2.0
// The GNU build-id of an ELF file: tells whether mapped code is still the same, whatever its time stamp says.
#pragma once

#include <cstddef>
#include <vector>

namespace stasis {

// Empty if the file is no 64-bit ELF file or has no build-id. Every offset in the file is checked.
std::vector<std::byte> read_build_id(int fd);

}  // namespace stasis
