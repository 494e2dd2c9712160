// SPDX-License-Identifier: Apache-2.0
// PrecopiedPages: pages of one address space that are copied while the process runs, over and over, and in the freeze
// once more as far as they have changed again. Where they are copied to is where they stay if nothing happens to them.
//
//   copy()...          the process runs; which pages, the WriteTracker tells
//   settle(), keep()   the process is stopped: what must be read now goes into memory
//   read()             the process runs again: all pages as they were at the freeze
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "base/unique_fd.h"
#include "resource/memory/page_source.h"
#include "tracee/patience.h"

namespace stasis {

// Where the copies lie: in an image, as chunks that are to stay, or in a file of our own that goes with us.
class PrecopyPlace {
 public:
  static PrecopyPlace in_image(ImageWriter& image) { return PrecopyPlace(&image, UniqueFd()); }
  static PrecopyPlace in_file(UniqueFd file) { return PrecopyPlace(nullptr, std::move(file)); }

  ImageWriter* image() const { return image_; }
  // Any thread.
  Result<ChunkSlot> reserve(std::span<const PageRun> runs);
  // All that the slot has room for. Any thread.
  Result<void> write(const ChunkSlot& slot, std::span<const std::byte> bytes);

 private:
  PrecopyPlace(ImageWriter* image, UniqueFd file) : image_(image), file_(std::move(file)) {}

  ImageWriter* image_;
  UniqueFd file_;
  std::unique_ptr<std::atomic<std::uint64_t>> end_ = std::make_unique<std::atomic<std::uint64_t>>(0);
};

// One thread; it uses others.
class PrecopiedPages final : public PageSource {
 public:
  // The place must outlive it.
  explicit PrecopiedPages(PrecopyPlace& place) : place_(&place) {}

  // Copies these pages of anonymous memory, also those that were copied before. What can't be read is left out: it is
  // going, or gone; pages of zeros are, too.
  Result<void> copy(const PageSource& memory, std::span<const PageRun> runs, const Patience& patience);
  // Their copies are out of date.
  void forget(std::span<const PageRun> runs);
  // Pages whose copies are whole.
  const std::vector<PageRun>& copied() const { return copied_; }

  // In the freeze: `wanted` are the pages to be saved (but for those of zeros), of which `unchanged` have not been
  // written since they were copied. Returns the bytes of the others.
  std::uint64_t settle(std::vector<PageRun> wanted, std::span<const PageRun> unchanged);
  // Where those are to be read, now by keep(), or without it when they are needed.
  void read_changed_from(const PageSource& memory) { memory_ = &memory; }
  Result<void> keep();
  const std::vector<PageRun>& wanted() const { return wanted_; }

  // After settle().
  Result<void> read(std::span<const PageRun> runs, std::span<std::byte> bytes) const override;
  // Makes chunks of the image what they can be: brings them up to date, and finishes them as the object's. Returns the
  // pages that are left to be saved in other chunks; when they are, drop_rest(). REQUIRES: copies in an image.
  Result<std::vector<PageRun>> finish_chunks(ObjRef object, const Patience& patience);
  Result<void> drop_rest();

 private:
  struct Chunk {
    ChunkSlot slot;
    std::vector<PageRun> runs;
    std::optional<ImageHash> hash;  // of what lies in the slot; none: it was changed since
    bool finished = false;
    // Without a place nothing was copied.
    bool open() const { return !finished && slot.fd >= 0; }
  };
  // Pages that lie one behind another in a file or in memory.
  struct Extent {
    std::uint64_t start = 0, length = 0;
    std::uint64_t offset = 0;
  };
  using Extents = std::vector<Extent>;  // ascending

  Result<void> copy_to_new_chunks(const PageSource& memory, std::span<const PageRun> runs, const Patience& patience);
  Result<void> copy_again(const PageSource& memory, std::span<const PageRun> runs, const Patience& patience);
  void note_extents();
  Result<void> read_run(const PageRun& run, std::span<std::byte> out) const;
  Result<void> finish_chunk(Chunk& chunk, ObjRef object);
  Result<void> read_changed(std::uint64_t start, std::uint64_t offset, std::span<std::byte> out) const;

  PrecopyPlace* place_;
  std::vector<Chunk> chunks_;
  int file_ = -1;
  Extents in_file_;
  std::vector<PageRun> copied_;
  std::vector<PageRun> zeros_;  // found to be zero, and copied nowhere
  std::vector<PageRun> wanted_;
  Extents changed_;  // their offsets are those in kept_
  std::uint64_t changed_bytes_ = 0;
  std::unique_ptr<std::byte[]> kept_;
  const PageSource* memory_ = nullptr;
};

}  // namespace stasis
