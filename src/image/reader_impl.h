// SPDX-License-Identifier: Apache-2.0
// What the parts of ImageReader have in common: its class, and how they read records. Only they include this.
#pragma once

#include <fmt/format.h>
#include <sys/types.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "image/format.h"
#include "image/hash.h"
#include "image/page_index.h"
#include "image/source.h"
#include "image/structure.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {

inline constexpr std::uint64_t kMaxChunkRecordBytes = std::uint64_t{4} << 20;  // 64 MiB in runs of one page, with room

inline ChunkRecord record_of(const ChunkInfo& chunk) {
  return ChunkRecord{chunk.object, chunk.codec, chunk.raw_size, chunk.stored_size, chunk.runs, chunk.source};
}

inline Error damaged_chunk(const ChunkInfo& chunk) {
  return Error(Errc::kImageChecksum, fmt::format("the chunk of object {} at offset {} is damaged", chunk.object.value(),
                                                 chunk.record_offset));
}

template <SchemaRecord T>
Result<T> decode_as(const StreamRecord& record) {
  if (record.type != T::kType) {
    return Error(Errc::kBadImage,
                 fmt::format("a record of {} where '{}' is expected", to_string(record.type), T::kName));
  }
  return decode<T>(record.payload, T::kName);
}

class ImageReader::Impl {
 public:
  Impl(std::unique_ptr<ImageSource> source, ReaderOptions options)
      : source_(std::move(source)), options_(std::move(options)) {}

  Result<void> open() {
    if (!source_->seekable()) return open_stream();
    return open_file();
  }

  const Structure& structure() const { return structure_; }
  bool seekable() const { return source_->seekable(); }
  int fd() const { return source_->fd(); }
  std::span<const ChunkInfo> chunks() const {
    return seekable() ? std::span<const ChunkInfo>(chunks_) : std::span<const ChunkInfo>();
  }
  ImageHash image_hash() const { return image_hash_; }
  ImageProgress progress() const {
    const std::lock_guard lock(mutex_);
    return progress_;
  }
  void set_object_handler(ObjectHandler handler) { handler_ = std::move(handler); }

  Result<std::span<const std::byte>> next_payload(RecordType wanted, std::string_view name);
  Result<RecordType> peek_type();
  Result<void> expect_end();

  Result<std::optional<ChunkInfo>> next_chunk(std::vector<std::byte>& buffer);
  Result<void> read_chunk(std::size_t i, std::span<std::byte> out) const;
  Result<void> verify_chunk(std::size_t i) const;
  Result<void> keep_going() const {
    return options_.keep_going ? options_.keep_going(std::chrono::nanoseconds(0)) : Result<void>();
  }
  Result<void> finish();

  Result<void> open_parents(const std::string& directory);
  const ImageReader* parent() const { return parent_.get(); }
  const std::string& path() const { return path_; }
  Result<std::vector<PageRun>> page_runs(ObjRef object) const;
  // Pages from `start` on, as many as `out` holds.
  struct Target {
    std::uint64_t start;
    std::span<std::byte> out;
  };
  Result<void> read_targets(ObjRef object, std::span<const Target> targets) const;

 private:
  // Bytes of a chunk's decompressed payload.
  struct Part {
    std::uint64_t offset;
    std::span<std::byte> out;
  };
  // The files of a chain, to tell a circle.
  using FileIds = std::vector<std::pair<dev_t, ino_t>>;
  Result<void> open_parents(const std::string& directory, uid_t owner, FileIds& files);
  Result<std::unique_ptr<ImageReader>> open_parent(const std::string& path, uid_t owner, FileIds& files) const;
  Result<const PageIndex*> page_index() const;
  Error without_parent() const;
  Result<void> read_inherited(const ChunkInfo& chunk, std::span<std::byte> out) const;
  Result<void> find_inherited(const ChunkInfo& chunk) const;
  Result<void> read_parts(std::size_t i, std::span<const Part> parts) const;
  Result<void> verify_payload(const ChunkInfo& chunk) const;
  Result<void> decode_payload(const ChunkInfo& chunk, std::span<std::byte> out) const;
  Result<void> open_stream();
  Result<void> open_file();
  Result<void> load_index(const TrailerRecord& trailer, std::uint64_t trailer_offset);
  Result<void> check_index(const IndexRecord& index, const TrailerRecord& trailer) const;
  // Why a file without an end mark has none.
  Error diagnose_incomplete() const;

  Result<void> handle_object(const StructureRecord& record);
  Result<const StructureRecord*> skip_to_record(RecordType wanted);

  std::uint64_t end_of(std::size_t i) const {
    return i + 1 < chunks_.size() ? chunks_[i + 1].record_offset : index_offset_;
  }
  Result<void> check_source(const ChunkInfo& chunk) const;
  Result<void> check_chunk_frame(std::size_t i) const;
  // kSkip: pages that are in the parent are not fetched.
  enum class Inherited { kFetch, kSkip };
  Result<std::optional<ChunkInfo>> next_stream_chunk(std::vector<std::byte>& buffer, Inherited inherited);
  Result<std::optional<ChunkInfo>> take_stream_chunk(std::vector<std::byte>& buffer, Inherited inherited);
  Result<ChunkInfo> read_stream_chunk(const StreamRecord& record, std::uint64_t offset, std::vector<std::byte>& buffer);
  Result<void> read_stream_ending(const StreamRecord& index_record, std::uint64_t index_offset);
  void count(const ChunkInfo& chunk) const;

  std::unique_ptr<ImageSource> source_;
  ReaderOptions options_;
  Structure structure_;
  std::size_t cursor_ = 0;  // next structure record
  unsigned depth_ = 0;      // object handlers on the stack
  ObjectHandler handler_;

  std::vector<ChunkInfo> chunks_;  // file: all; stream: those that came
  std::uint64_t index_offset_ = 0;
  ImageHash image_hash_{};
  std::size_t next_chunk_ = 0;
  std::uint64_t stream_offset_ = 0;
  // The index repeats what the chunks said, so of a stream it can't be much
  // larger than what came.
  std::uint64_t index_bound_ = kMaxChunkRecordBytes;
  bool finished_ = false;

  std::unique_ptr<ImageReader> parent_;
  std::string path_;  // of a parent, as it was found
  mutable std::mutex index_mutex_;
  mutable std::optional<PageIndex> page_index_;
  // Chunks of which read_parts() knows the hash to be right, and the one it decompressed last.
  mutable std::mutex parts_mutex_;
  mutable std::vector<bool> verified_;
  mutable std::size_t decoded_chunk_ = 0;
  mutable std::shared_ptr<const std::vector<std::byte>> decoded_;

  mutable std::mutex mutex_;  // progress
  mutable ImageProgress progress_;
};

}  // namespace stasis
