// SPDX-License-Identifier: Apache-2.0
// PageBuffer: memory for whole pages on their way, aligned as O_DIRECT wants it, in big pages where it is large. It is
// not cleared, and keeps what it has: one buffer serves one chunk after another.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

namespace stasis {

class PageBuffer {
 public:
  // `size` bytes with any contents; earlier ones of this buffer are void. Throws std::bad_alloc.
  std::span<std::byte> take(std::size_t size);

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t size_ = 0;
};

}  // namespace stasis
