// SPDX-License-Identifier: Apache-2.0
// Which pages of a process are the same as in an earlier image of it.
#pragma once

#include <span>
#include <vector>

#include "resource/memory/page_source.h"
#include "stasis/image.h"
#include "tracee/patience.h"

namespace stasis {

// The address space as the parent image has it.
struct PageBase {
  const ImageReader* parent = nullptr;
  ObjRef object;
};

// Those of `runs` that hold the same bytes as the parent's. Both are read and compared: a table of hashes would cost
// every checkpoint, also those that nobody continues, and reading the parent costs no more than writing the pages
// again. What is the same is released.
Result<std::vector<PageRun>> find_unchanged(std::span<const PageRun> runs, const PageSource& memory,
                                            const PageBase& base, const Patience& patience);

}  // namespace stasis
