// SPDX-License-Identifier: Apache-2.0
// Anonymous memory on huge pages, for tables and arenas of 2 MiB and more. Zeroed; failure is nullptr.
//
// With 4 KiB pages each access to a large table also misses the TLB, which costs as much as the access itself. The
// advice is all that is needed under THP=madvise (the usual setting), and harmless where huge pages are off.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace stasis {

inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

// `size` bytes, a multiple of kHugePage, at such a boundary. Give back with unmap_huge.
inline void* map_huge(std::size_t size) noexcept {
  if (size > PTRDIFF_MAX - kHugePage) return nullptr;
  void* const raw =
      ::mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  char* const from = static_cast<char*>(raw);
  const std::size_t head = -reinterpret_cast<std::uintptr_t>(raw) & (kHugePage - 1);
  if (head != 0) ::munmap(from, head);
  if (head != kHugePage) ::munmap(from + head + size, kHugePage - head);
  (void)::madvise(from + head, size, MADV_HUGEPAGE);
  return from + head;
}

inline void unmap_huge(void* memory, std::size_t size) noexcept { ::munmap(memory, size); }

}  // namespace stasis
