// SPDX-License-Identifier: Apache-2.0
// EarlyChunks: pages that are written before the structure section is known. Files only.
#pragma once

#include "stasis/image.h"

namespace stasis {

// Threads: reserve(), write(), finish() and drop() by any number at once.
class EarlyChunks {
 public:
  // Borrows the writer.
  explicit EarlyChunks(ImageWriter& writer) : writer_(writer) {}

  // Keeps that many bytes at the front for the structure section; end_structure() fills up what is left of them. Before
  // the first record and the first chunk.
  Result<void> reserve_structure(std::uint64_t bytes);
  // Room for a chunk (Codec::kNone) of an object that has no number yet, before or after the structure. It may be
  // written again and again; at last it is finished or dropped, when the structure is written.
  Result<ChunkSlot> reserve(std::span<const PageRun> runs);
  // The whole payload at once, the fastest way (see ImageWriter::write_directly()).
  Result<void> write(const ChunkSlot& slot, std::span<const std::byte> payload);
  // `hash`: of what lies there; null: it is taken from the file.
  Result<void> finish(const ChunkSlot& slot, ObjRef object, const ImageHash* hash = nullptr);
  // It stays as a chunk without pages, which takes no space where the file system has holes.
  Result<void> drop(const ChunkSlot& slot);
  // When end_structure() has failed with kOverflow, the room was too small: all early chunks are given up, their slots
  // are void, and end_structure() can be called again.
  Result<void> forget();

 private:
  ImageWriter& writer_;
};

}  // namespace stasis
