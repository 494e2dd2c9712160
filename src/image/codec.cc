// SPDX-License-Identifier: Apache-2.0
#include "image/codec.h"

#include <lz4.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <string>

namespace stasis {
namespace {

std::size_t compress_lz4(std::span<const std::byte> raw, std::span<std::byte> out, int level) {
  const int n = LZ4_compress_fast(reinterpret_cast<const char*>(raw.data()), reinterpret_cast<char*>(out.data()),
                                  static_cast<int>(raw.size()), static_cast<int>(out.size()), std::max(1, -level));
  return static_cast<std::size_t>(std::max(n, 0));
}

// 0: does not fit into `out`.
Result<std::size_t> compress_zstd(std::span<const std::byte> raw, std::span<std::byte> out, int level) {
  const std::size_t n = ZSTD_compress(out.data(), out.size(), raw.data(), raw.size(), level == 0 ? 1 : level);
  if (!ZSTD_isError(n)) return n;
  if (ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall) return std::size_t{0};
  return Error(Errc::kNoMemory, std::string("zstd: ") + ZSTD_getErrorName(n));
}

}  // namespace

Result<std::optional<std::size_t>> compress(Codec codec, int level, std::span<const std::byte> raw,
                                            std::span<std::byte> out) {
  using Size = std::optional<std::size_t>;
  if (codec == Codec::kNone || codec == Codec::kParent || raw.size() > kMaxChunkBytes) return Size();
  out = out.first(worthwhile_size(raw.size()));
  const std::size_t size =
      codec == Codec::kLz4 ? compress_lz4(raw, out, level) : STASIS_TRY(compress_zstd(raw, out, level));
  return size == 0 ? Size() : Size(size);
}

Result<void> decompress(Codec codec, std::span<const std::byte> stored, std::span<std::byte> out) {
  if (stored.size() > kMaxChunkBytes || out.size() > kMaxChunkBytes) return Error(Errc::kBadImage, "chunk too large");
  bool good = false;
  switch (codec) {
    case Codec::kNone:
      good = stored.size() == out.size();
      if (good) std::ranges::copy(stored, out.begin());
      break;
    case Codec::kLz4: {
      const int n =
          LZ4_decompress_safe(reinterpret_cast<const char*>(stored.data()), reinterpret_cast<char*>(out.data()),
                              static_cast<int>(stored.size()), static_cast<int>(out.size()));
      good = n >= 0 && static_cast<std::size_t>(n) == out.size();
      break;
    }
    case Codec::kZstd:
      good = ZSTD_decompress(out.data(), out.size(), stored.data(), stored.size()) == out.size();
      break;
    case Codec::kParent:
      break;
  }
  if (!good) return Error(Errc::kBadImage, "a chunk does not decompress to its stated size");
  return {};
}

}  // namespace stasis
