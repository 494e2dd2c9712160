// SPDX-License-Identifier: Apache-2.0
// What the parts of ImageWriter have in common: its class. Only they include this.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/page_buffer.h"
#include "image/direct_file.h"
#include "image/format.h"
#include "image/hash.h"
#include "image/output_file.h"
#include "stasis/image.h"

namespace stasis {

inline Error out_of_order(std::string_view what) {
  return Error(Errc::kInvalidArgument, "image: " + std::string(what));
}

class ImageWriter::Impl {
 public:
  Impl(std::optional<OutputFile> file, int stream, WriterOptions options)
      : file_(std::move(file)), stream_(stream), options_(std::move(options)) {
    const auto preamble = make_preamble();
    structure_.assign(preamble.begin(), preamble.end());
  }

  Result<void> write_payload(RecordType type, std::span<const std::byte> payload);
  Result<void> begin_object(ObjRef ref, ObjType type);
  Result<void> end_structure();
  Result<void> add_chunk(ObjRef object, std::span<const PageRun> runs, std::span<const std::byte> payload);
  Result<void> inherit(ObjRef object, std::span<const PageRun> runs, ObjRef source);
  Result<ChunkSlot> reserve_chunk(ObjRef object, std::span<const PageRun> runs);
  Result<void> finish_chunk(const ChunkSlot& slot, const ImageHash* hash);
  Result<void> reserve_structure(std::uint64_t bytes);
  Result<ChunkSlot> reserve_early(std::span<const PageRun> runs);
  Result<void> write_early(const ChunkSlot& slot, std::span<const std::byte> payload);
  Result<void> finish_early(const ChunkSlot& slot, ObjRef object, const ImageHash* hash);
  Result<void> drop_early(const ChunkSlot& slot);
  Result<void> forget_early();
  Result<void> publish();
  void abort(const Error& reason);
  void write_directly() {
    if (file_ && !direct_) direct_ = DirectFile::open(file_->fd());
  }

  bool seekable() const { return file_.has_value(); }
  std::uint64_t page_size() const { return page_size_; }
  std::string staging_path() const { return file_ ? file_->staging_path() : std::string(); }
  ImageHash image_hash() const { return image_hash_; }
  ImageProgress progress() const {
    const std::lock_guard lock(mutex_);
    return progress_;
  }

 private:
  enum class Stage : std::uint8_t { kStart, kStructure, kPages, kOver };

  // Where a chunk was placed, with its record ready to be written.
  struct Placed {
    std::size_t index;
    std::uint64_t record_offset;
    std::uint64_t payload_offset;
    std::vector<std::byte> record;
  };

  Result<void> check_stage(Stage wanted) const;
  Result<void> fill_up_structure();
  Result<ChunkSlot> reserve(ChunkRecord record);
  Result<ChunkInfo> early_chunk(const ChunkSlot& slot) const;
  Result<void> close_early(const ChunkSlot& slot, const ChunkInfo& chunk, const ImageHash* given);
  Result<Placed> place(const ChunkRecord& record);
  Result<void> put(std::span<const std::byte> bytes, std::uint64_t offset);
  Result<void> put_payload(std::span<const std::byte> bytes, std::uint64_t offset);
  Result<void> explain(Result<void> written) const;
  PageBuffer take_buffer();
  void give_back(PageBuffer buffer);
  Result<void> put_chunk(const Placed& placed, std::span<const std::byte> payload, std::span<const std::byte> end);
  Result<void> add_placed(const ChunkRecord& record, std::span<const std::byte> payload);
  Result<void> remember(Result<void> result);
  void count(std::size_t index, const ImageHash& hash);
  Result<void> write_ending();

  std::optional<OutputFile> file_;    // else a stream
  std::optional<DirectFile> direct_;  // the same file
  int stream_;
  WriterOptions options_;

  mutable std::mutex mutex_;
  Stage stage_ = Stage::kStart;
  std::optional<Error> failure_;  // of the medium; sticks
  std::vector<std::byte> structure_;
  std::uint64_t records_ = 0;
  std::uint64_t page_size_ = kPayloadAlignment;
  bool has_parent_ = false;
  std::uint64_t structure_room_ = 0;  // 0: as much as it needs
  std::uint64_t structure_size_ = 0;
  ImageHash structure_hash_{};
  std::uint64_t offset_ = 0;  // where the next chunk record goes
  IndexRecord index_;
  std::vector<bool> finished_;  // by index into index_.chunks
  ImageHash image_hash_{};
  ImageProgress progress_;
  std::vector<PageBuffer> buffers_;  // for compressed payloads; nobody has them
};

}  // namespace stasis
