// SPDX-License-Identifier: Apache-2.0
// Verifying a whole image; what `stasis verify` does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "stasis/image.h"

namespace stasis {

struct VerifyOptions {
  unsigned threads = 0;  // that read chunks of a file; 0: one per CPU that may be used
  RecordRegistry known;  // as ReaderOptions::known; their records are decoded too
  ProgressHook progress;
  KeepGoing keep_going;
};

struct VerifyReport {
  std::uint64_t records = 0;
  std::uint64_t chunks = 0;
  std::uint64_t page_bytes = 0;  // before compression
  ImageHash image_hash{};
  // Of an image that holds only what differs: those it goes back to, parent first, verified likewise.
  struct Parent {
    std::string path;
    ImageHash hash{};
  };
  std::vector<Parent> parents;
};

// Reads every byte and checks every checksum, decodes every record that is known and decompresses every chunk; the same
// with the image's parents, of which the second form wants that open_parents() was called. The
// first error met is returned; with several threads that need not be the first in the file.
Result<VerifyReport> verify_image(const std::string& path, const VerifyOptions& options);
Result<VerifyReport> verify_image(ImageReader& reader, const VerifyOptions& options);

}  // namespace stasis
