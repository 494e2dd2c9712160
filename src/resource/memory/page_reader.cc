// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/page_reader.h"

#include <algorithm>
#include <vector>

namespace stasis {

// In turns, what lies together in one call.
Result<void> PageReader::read(std::span<const PageRun> runs, std::span<std::byte> bytes) const {
  std::vector<kernel::RemoteRange> ranges;
  std::uint64_t size = 0;
  bool sharing = false;
  const auto flush = [&]() -> Result<void> {
    if (ranges.empty()) return {};
    const auto part = bytes.first(size);
    STASIS_TRY(sharing ? memory_->read_shared(ranges, part) : memory_->read(ranges, part));
    bytes = bytes.subspan(size);
    ranges.clear();
    size = 0;
    return {};
  };
  auto next = runs.empty() ? shared_.end()
                           : std::ranges::upper_bound(shared_, runs.front().start, {},
                                                      [](const PageRun& run) { return run.start + run.length; });
  for (const PageRun& run : runs) {
    const std::uint64_t end = run.start + run.length;
    for (std::uint64_t at = run.start; at < end;) {
      while (next != shared_.end() && next->start + next->length <= at) ++next;
      const bool inside = next != shared_.end() && next->start <= at;
      std::uint64_t until = end;
      if (next != shared_.end()) until = std::min(end, inside ? next->start + next->length : next->start);
      if (inside != sharing) STASIS_TRY(flush());
      sharing = inside;
      ranges.push_back({.address = at, .size = until - at});
      size += until - at;
      at = until;
    }
  }
  return flush();
}

}  // namespace stasis
