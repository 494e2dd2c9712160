// SPDX-License-Identifier: Apache-2.0
// Compression of one chunk's payload: LZ4 blocks and Zstandard frames. No state between chunks, thread-safe.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis {

// The compressed payload, or nullopt if that is not at least 1/16 smaller (then it is not worth the time to read it).
// `level` 0 is the codec's fast default: LZ4 acceleration 1, zstd level 1. For LZ4 a negative level is an acceleration.
Result<std::optional<std::vector<std::byte>>> compress(Codec codec, int level, std::span<const std::byte> raw);

// Fills `out` exactly; kBadImage if `stored` does not decompress to that many bytes.
Result<void> decompress(Codec codec, std::span<const std::byte> stored, std::span<std::byte> out);

}  // namespace stasis
