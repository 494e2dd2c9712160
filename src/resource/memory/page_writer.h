// SPDX-License-Identifier: Apache-2.0
// The way of pages into an image: in chunks, on all CPUs.
#pragma once

#include <span>

#include "resource/memory/page_source.h"
#include "stasis/image.h"
#include "tracee/patience.h"

namespace stasis {

// kPlain: the image holds the pages as they are; kCoded: as its writer's codec makes them.
enum class PageForm { kPlain, kCoded };

// Which address space of the image, and where its pages are read.
struct PageWriting {
  ImageWriter& image;
  ObjRef object;
  const PageSource& source;
  PageForm form;
  const Patience& patience;
};

// Adds the pages as chunks of `object`; ascending.
Result<void> write_pages(const PageWriting& to, std::span<const PageRun> runs);

}  // namespace stasis
