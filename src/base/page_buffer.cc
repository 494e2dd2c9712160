// SPDX-License-Identifier: Apache-2.0
#include "base/page_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace stasis {
namespace {

constexpr std::size_t kBigPage = std::size_t{2} << 20;
constexpr std::size_t kAlignment = 4096;

std::size_t round_up(std::size_t size, std::size_t to) { return (size + to - 1) / to * to; }

}  // namespace

std::span<std::byte> PageBuffer::take(std::size_t size) {
  if (size > size_) {
    const std::size_t alignment = size >= kBigPage ? kBigPage : kAlignment;
    const std::size_t whole = round_up(size, alignment);
    memory_.reset();
    size_ = 0;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, whole)));
    if (!memory_) throw std::bad_alloc();
    size_ = whole;
    if (alignment == kBigPage) (void)::madvise(memory_.get(), whole, MADV_HUGEPAGE);
  }
  return {memory_.get(), size};
}

}  // namespace stasis
