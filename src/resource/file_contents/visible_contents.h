// SPDX-License-Identifier: Apache-2.0
// Contents of mapped files that can't be opened for want of rights: read through the mappings of the processes that
// have them, which are stopped. Only shared mappings count; the pages of private ones are all saved with their process.
//
// Reading allocates the pages of shared memory that were never touched. What nobody maps any more stays unsaved: nobody
// can see it either (mremap(2) of a shrunk mapping could).
#pragma once

#include <cstdint>
#include <span>

#include "resource/checkpoint_context.h"

namespace stasis {

// How many bytes of a mapping lie in the file; behind its end reading fails.
Result<std::uint64_t> readable_part(const MappedView& view);
// Up to where the file reaches and is mapped; bytes.
Result<std::uint64_t> visible_size(const OpenInode& inode);
// Has the checkpoint write what is mapped of the first `size` bytes as chunks of `object`.
Result<void> write_visible_later(CheckpointContext& context, ObjRef object, const OpenInode& inode, std::uint64_t size);

// Fills memory that we have mapped.
Result<void> fill_memory(std::span<std::byte> memory, std::span<const PageRun> runs, std::span<const std::byte> pages);

// Fills memory whose file knows no write(2), as that of huge pages, through a mapping of ours.
Result<void> fill_mapped(int fd, std::uint64_t size, std::uint64_t page, std::span<const PageRun> runs,
                         std::span<const std::byte> pages);

}  // namespace stasis
