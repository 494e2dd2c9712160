// SPDX-License-Identifier: Apache-2.0
// Folding a chain of images into one; what `stasis merge` does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "stasis/image.h"

namespace stasis {

struct MergeOptions {
  std::optional<Codec> codec;  // absent: the image's own
  RecordRegistry known;        // as ReaderOptions::known
  ProgressHook progress;
  KeepGoing keep_going;
};

struct MergeReport {
  unsigned images = 0;  // that were folded
  std::uint64_t page_bytes = 0;
  std::uint64_t bytes = 0;
};

// Writes `image` with all that its parents have to `output`, which may be any of them: it is replaced when all is
// written. An image without a parent is copied.
Result<MergeReport> merge_image(const std::string& image, const std::string& output, const MergeOptions& options);

}  // namespace stasis
