// SPDX-License-Identifier: Apache-2.0
#include "image/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/file.h"

namespace stasis {
namespace {

ImageHash canonical(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  ImageHash result;
  std::memcpy(result.data(), bytes.digest, result.size());
  return result;
}

}  // namespace

struct HashStream::State {};

HashStream::HashStream() : state_(reinterpret_cast<State*>(XXH3_createState())) {
  if (state_) XXH3_128bits_reset(reinterpret_cast<XXH3_state_t*>(state_));
}

HashStream::~HashStream() { XXH3_freeState(reinterpret_cast<XXH3_state_t*>(state_)); }

void HashStream::update(std::span<const std::byte> bytes) {
  if (state_) XXH3_128bits_update(reinterpret_cast<XXH3_state_t*>(state_), bytes.data(), bytes.size());
}

Result<ImageHash> HashStream::digest() const {
  if (!state_) return Error(Errc::kNoMemory, "no memory for a hash");
  return canonical(XXH3_128bits_digest(reinterpret_cast<const XXH3_state_t*>(state_)));
}

ImageHash hash_bytes(std::span<const std::byte> bytes) { return canonical(XXH3_128bits(bytes.data(), bytes.size())); }

std::string to_hex(const ImageHash& hash) { return fmt::format("{:02x}", fmt::join(hash, "")); }

Result<ImageHash> hash_file_range(int fd, std::uint64_t offset, std::uint64_t length) {
  constexpr std::size_t kBlock = std::size_t{256} << 10;  // stays in the L2 cache
  HashStream hash;
  std::vector<std::byte> block(static_cast<std::size_t>(std::min<std::uint64_t>(kBlock, length)));
  for (std::uint64_t done = 0; done < length;) {
    const auto part = std::span(block).first(static_cast<std::size_t>(std::min<std::uint64_t>(kBlock, length - done)));
    const std::size_t got = STASIS_TRY(pread_full(fd, part, static_cast<off_t>(offset + done)));
    if (got != part.size()) return Error(Errc::kImageTruncated, "the image ends inside a chunk");
    hash.update(part);
    done += part.size();
  }
  return hash.digest();
}

}  // namespace stasis
