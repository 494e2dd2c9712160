// SPDX-License-Identifier: Apache-2.0
// The way of pages into an image: in chunks, on all CPUs.
#pragma once

#include <span>

#include "resource/memory/page_source.h"
#include "stasis/image.h"
#include "tracee/patience.h"

namespace stasis {

// Which address space of the image, and where its pages are read.
struct PageWriting {
  ImageWriter& image;
  ObjRef object;
  const PageSource& source;
  std::span<const PageRun> zero_if_absent;  // where a page of zeros need not stand in the image; ascending
  const Patience& patience;
};

// Adds the pages as chunks of `object`; ascending.
Result<void> write_pages(const PageWriting& to, std::span<const PageRun> runs);

}  // namespace stasis
