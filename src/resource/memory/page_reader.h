// SPDX-License-Identifier: Apache-2.0
// PageReader: the pages of a stopped process, read without a trace in it: what it shares with others by copy on write
// stays shared.
#pragma once

#include <span>

#include "kernel/process_memory.h"
#include "stasis/image.h"

namespace stasis {

// Borrows both; any thread may read.
class PageReader {
 public:
  // `shared`: what others may have as well; ascending. (What is missing there is only copied in the process.)
  PageReader(const kernel::ProcessMemory& memory, std::span<const PageRun> shared)
      : memory_(&memory), shared_(shared) {}

  // One run behind another; ascending. REQUIRES: bytes.size() is the sum of the lengths.
  Result<void> read(std::span<const PageRun> runs, std::span<std::byte> bytes) const;

 private:
  const kernel::ProcessMemory* memory_;
  std::span<const PageRun> shared_;
};

}  // namespace stasis
