// SPDX-License-Identifier: Apache-2.0
// Leaving pages of zeros out of a chunk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "stasis/image.h"

namespace stasis {

struct PagesLeft {
  std::vector<PageRun> runs;
  std::vector<std::byte> payload;
};

// Is every byte zero?
bool is_zero(std::span<const std::byte> bytes);

// Runs and payload without the pages that are all zeros; nullopt if there are none (nothing was copied then).
// kInvalidArgument if the runs are not whole pages or do not add up to the payload.
Result<std::optional<PagesLeft>> drop_zero_pages(std::span<const PageRun> runs, std::span<const std::byte> payload,
                                                 std::uint64_t page_size);

// The same where they stand: those left over move together, the runs are those of what is left. Returns their size.
std::size_t squeeze_zero_pages(std::vector<PageRun>& runs, std::span<std::byte> payload, std::uint64_t page_size);

}  // namespace stasis
