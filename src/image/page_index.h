// SPDX-License-Identifier: Apache-2.0
// PageIndex: where the pages of each object lie in an image's chunks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis {

class PageIndex {
 public:
  // Bytes [start, start + length) of an object: `offset` bytes behind the beginning of a chunk's decompressed payload.
  struct Extent {
    std::uint64_t start = 0;
    std::uint64_t length = 0;
    std::size_t chunk = 0;
    std::uint64_t offset = 0;
  };

  PageIndex() = default;
  // REQUIRES: chunks that were checked one by one. kBadImage: a page is there twice.
  static Result<PageIndex> make(std::span<const ChunkInfo> chunks);

  // Ascending; empty for an object without pages.
  std::span<const Extent> extents(ObjRef object) const;
  // Calls `piece` for each part of `run`, ascending, with an extent that is no larger than the run.
  // False: some of it is in no chunk.
  bool find(ObjRef object, const PageRun& run, const std::function<void(const Extent&)>& piece) const;

 private:
  std::map<std::int32_t, std::vector<Extent>> objects_;
};

}  // namespace stasis
