// SPDX-License-Identifier: Apache-2.0
// XXH3-128 of what lies in a file. (Of bytes in memory: hash_bytes in stasis/image.h.)
#pragma once

#include <cstdint>

#include "stasis/image.h"

namespace stasis {

// kImageTruncated if the file ends before offset + length.
Result<ImageHash> hash_file_range(int fd, std::uint64_t offset, std::uint64_t length);

}  // namespace stasis
