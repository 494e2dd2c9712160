// SPDX-License-Identifier: Apache-2.0
// Compression of one chunk's payload: LZ4 blocks and Zstandard frames. No state between chunks, thread-safe.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis {

// How many bytes of a payload of `raw_size` a compressed one may have: at least 1/16 less, or it is not worth the time
// to read it.
constexpr std::size_t worthwhile_size(std::size_t raw_size) { return raw_size - raw_size / 16; }

// The size of what is in `out` then; nullopt if it does not fit. REQUIRES: out.size() is at least worthwhile_size().
// `level` 0 is the codec's fast default: LZ4 acceleration 1, zstd level 1. For LZ4 a negative level is an acceleration.
Result<std::optional<std::size_t>> compress(Codec codec, int level, std::span<const std::byte> raw,
                                            std::span<std::byte> out);

// Fills `out` exactly; kBadImage if `stored` does not decompress to that many bytes.
Result<void> decompress(Codec codec, std::span<const std::byte> stored, std::span<std::byte> out);

}  // namespace stasis
