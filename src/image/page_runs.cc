// SPDX-License-Identifier: Apache-2.0
#include "image/page_runs.h"

#include <algorithm>

namespace stasis {

std::vector<PageRun> intersect(std::span<const PageRun> a, std::span<const PageRun> b) {
  std::vector<PageRun> result;
  for (std::size_t i = 0, k = 0; i < a.size() && k < b.size();) {
    const std::uint64_t end_a = a[i].start + a[i].length, end_b = b[k].start + b[k].length;
    const std::uint64_t start = std::max(a[i].start, b[k].start), end = std::min(end_a, end_b);
    if (start < end) append(result, {.start = start, .length = end - start});
    if (end_a <= end_b) ++i;
    if (end_b <= end_a) ++k;
  }
  return result;
}

std::vector<PageRun> subtract(std::span<const PageRun> a, std::span<const PageRun> b) {
  std::vector<PageRun> result;
  std::size_t k = 0;
  for (const PageRun& run : a) {
    std::uint64_t at = run.start;
    const std::uint64_t end = run.start + run.length;
    while (k < b.size() && b[k].start + b[k].length <= at) ++k;
    for (std::size_t m = k; m < b.size() && b[m].start < end; ++m) {
      if (b[m].start > at) append(result, {.start = at, .length = b[m].start - at});
      at = std::max(at, b[m].start + b[m].length);
    }
    if (at < end) append(result, {.start = at, .length = end - at});
  }
  return result;
}

std::vector<PageRun> merge(std::span<const PageRun> a, std::span<const PageRun> b) {
  std::vector<PageRun> result;
  for (std::size_t i = 0, k = 0; i < a.size() || k < b.size();) {
    const bool from_a = k == b.size() || (i < a.size() && a[i].start <= b[k].start);
    const PageRun& run = from_a ? a[i++] : b[k++];
    const std::uint64_t known = result.empty() ? 0 : result.back().start + result.back().length;
    const std::uint64_t end = run.start + run.length;
    if (result.empty() || known < run.start) {
      result.push_back(run);
    } else if (end > known) {
      result.back().length = end - result.back().start;
    }
  }
  return result;
}

std::vector<std::vector<PageRun>> cut(std::span<const PageRun> runs, std::uint64_t size) {
  std::vector<std::vector<PageRun>> parts;
  std::uint64_t room = 0;
  for (PageRun run : runs) {
    while (run.length > 0) {
      if (room == 0) {
        parts.emplace_back();
        room = size;
      }
      const std::uint64_t length = std::min(run.length, room);
      parts.back().push_back({.start = run.start, .length = length});
      run.start += length;
      run.length -= length;
      room -= length;
    }
  }
  return parts;
}

std::uint64_t total_length(std::span<const PageRun> runs) {
  std::uint64_t sum = 0;
  for (const PageRun& run : runs) sum += run.length;
  return sum;
}

void append(std::vector<PageRun>& runs, const PageRun& run) {
  if (!runs.empty() && runs.back().start + runs.back().length == run.start) {
    runs.back().length += run.length;
  } else {
    runs.push_back(run);
  }
}

}  // namespace stasis
