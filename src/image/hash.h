// SPDX-License-Identifier: Apache-2.0
// XXH3-128 of what lies in a file. (Of bytes in memory: hash_bytes in stasis/image.h.)
#pragma once

#include <cstdint>

#include "stasis/image.h"

namespace stasis {

// The hash of bytes that come in pieces.
class HashStream {
 public:
  HashStream();  // kNoMemory shows at digest()
  ~HashStream();
  HashStream(const HashStream&) = delete;
  HashStream& operator=(const HashStream&) = delete;
  void update(std::span<const std::byte> bytes);
  Result<ImageHash> digest() const;

 private:
  struct State;
  State* state_;
};

// kImageTruncated if the file ends before offset + length.
Result<ImageHash> hash_file_range(int fd, std::uint64_t offset, std::uint64_t length);

}  // namespace stasis
