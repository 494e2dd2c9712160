// SPDX-License-Identifier: Apache-2.0
// Arithmetic of page runs. All lists are ascending and don't overlap, and so are the results.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "stasis/image.h"

namespace stasis {

// What is in both.
std::vector<PageRun> intersect(std::span<const PageRun> a, std::span<const PageRun> b);
// What is in `a` and not in `b`.
std::vector<PageRun> subtract(std::span<const PageRun> a, std::span<const PageRun> b);
// What is in one of them.
std::vector<PageRun> merge(std::span<const PageRun> a, std::span<const PageRun> b);
// Parts of `size` bytes each, the last one of what is left. REQUIRES: a multiple of the page size.
std::vector<std::vector<PageRun>> cut(std::span<const PageRun> runs, std::uint64_t size);
std::uint64_t total_length(std::span<const PageRun> runs);
// Adds a run behind all others, as one with the last if they touch.
void append(std::vector<PageRun>& runs, const PageRun& run);

}  // namespace stasis
