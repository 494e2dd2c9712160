// SPDX-License-Identifier: Apache-2.0
// PageReader: the pages of a stopped process, read without a trace in it: what it shares with others by copy on write
// stays shared.
#pragma once

#include <span>

#include "kernel/process_memory.h"
#include "resource/memory/page_source.h"

namespace stasis {

// Borrows both; any thread may read.
class PageReader final : public PageSource {
 public:
  // `shared`: what others may have as well; ascending. (What is missing there is only copied in the process.)
  PageReader(const kernel::ProcessMemory& memory, std::span<const PageRun> shared)
      : memory_(&memory), shared_(shared) {}

  Result<void> read(std::span<const PageRun> runs, std::span<std::byte> bytes) const override;

 private:
  const kernel::ProcessMemory* memory_;
  std::span<const PageRun> shared_;
};

}  // namespace stasis
