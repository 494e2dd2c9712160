// SPDX-License-Identifier: Apache-2.0
// Contents of files that must travel in the image, because no path leads to them: as chunks of pages, holes left out.
#pragma once

#include <cstdint>
#include <span>

#include "base/unique_fd.h"
#include "resource/open_file/open_file.h"
#include "stasis/image.h"
#include "tracee/patience.h"

namespace stasis {

// A descriptor that can read the file, from any of its openings. REQUIRES: it is held.
Result<UniqueFd> open_for_reading(const OpenInode& inode);

// Adds the data of the first `size` bytes as chunks of `object`. REQUIRES: nobody writes the file meanwhile.
Result<void> write_contents(ImageWriter& image, ObjRef object, int fd, std::uint64_t size, const Patience& patience);

// Writes one chunk's pages into a file of `size` bytes; what lies behind the end is dropped. kBadImage: pages that lie
// wholly behind it.
Result<void> fill_contents(int fd, std::uint64_t size, std::span<const PageRun> runs, std::span<const std::byte> pages);

}  // namespace stasis
