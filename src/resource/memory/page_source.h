// SPDX-License-Identifier: Apache-2.0
// PageSource: where the pages of one address space are read from as they were at the freeze: the stopped process
// itself, or, once it runs again, what was kept of it (engine/snapshot.h).
#pragma once

#include <cstddef>
#include <span>

#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis {

// Any thread may call it, for different pages at the same time.
class PageSource {
 public:
  virtual ~PageSource() = default;

  // One run behind another; ascending. REQUIRES: bytes.size() is the sum of the lengths; none of it was released.
  virtual Result<void> read(std::span<const PageRun> runs, std::span<std::byte> bytes) const = 0;
  // These are not read again. An error: what was read of them is not what they were at the freeze.
  virtual Result<void> release(std::span<const PageRun>) const { return {}; }

 protected:
  PageSource() = default;
  PageSource(const PageSource&) = default;
  PageSource& operator=(const PageSource&) = default;
};

}  // namespace stasis
