// SPDX-License-Identifier: Apache-2.0
#include "image/page_index.h"

#include <fmt/format.h>

#include <algorithm>

namespace stasis {

Result<PageIndex> PageIndex::make(std::span<const ChunkInfo> chunks) {
  PageIndex index;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    std::uint64_t offset = 0;
    auto& extents = index.objects_[chunks[i].object.value()];
    for (const PageRun& run : chunks[i].runs) {
      extents.push_back({.start = run.start, .length = run.length, .chunk = i, .offset = offset});
      offset += run.length;
    }
  }
  for (auto& [object, extents] : index.objects_) {
    std::ranges::sort(extents, {}, &Extent::start);
    for (std::size_t i = 1; i < extents.size(); ++i) {
      if (extents[i - 1].start + extents[i - 1].length <= extents[i].start) continue;
      return Error(Errc::kBadImage, fmt::format("page {:x} of object {} is there twice", extents[i].start, object));
    }
  }
  return index;
}

std::span<const PageIndex::Extent> PageIndex::extents(ObjRef object) const {
  const auto found = objects_.find(object.value());
  return found == objects_.end() ? std::span<const Extent>() : std::span<const Extent>(found->second);
}

bool PageIndex::find(ObjRef object, const PageRun& run, const std::function<void(const Extent&)>& piece) const {
  const auto all = extents(object);
  auto at = std::ranges::upper_bound(all, run.start, {}, &Extent::start);
  if (at != all.begin()) --at;
  std::uint64_t next = run.start;
  const std::uint64_t end = run.start + run.length;
  for (; next < end; ++at) {
    if (at == all.end() || at->start > next || at->start + at->length <= next) return false;
    const std::uint64_t skip = next - at->start;
    const std::uint64_t length = std::min(end - next, at->length - skip);
    piece({.start = next, .length = length, .chunk = at->chunk, .offset = at->offset + skip});
    next += length;
  }
  return true;
}

}  // namespace stasis
