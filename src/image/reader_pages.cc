// SPDX-License-Identifier: Apache-2.0
// ImageReader: page chunks, by number in a file or in order from a stream.
#include <array>

#include "image/codec.h"
#include "image/reader_impl.h"

namespace stasis {

// ---- files ----------------------------------------------------------------------------------------------------------

void ImageReader::Impl::count(const ChunkInfo& chunk) const {
  const std::lock_guard lock(mutex_);
  progress_.raw_bytes += chunk.raw_size;
  progress_.stored_bytes += chunk.payload_offset - chunk.record_offset + chunk.stored_size + kChunkEndSize;
  ++progress_.chunks;
  if (options_.progress) options_.progress(progress_);
}

// The records around a chunk's payload say what the index says.
Result<void> ImageReader::Impl::check_chunk_frame(std::size_t i) const {
  const ChunkInfo& chunk = chunks_[i];
  const StreamRecord head = STASIS_TRY(read_file_record(*source_, chunk.record_offset, chunk.payload_offset));
  ChunkRecord record = STASIS_TRY(decode_as<ChunkRecord>(head));
  const StreamRecord foot = STASIS_TRY(read_file_record(*source_, chunk.payload_offset + chunk.stored_size, end_of(i)));
  const auto end = STASIS_TRY(decode_as<ChunkEndRecord>(foot));
  const ChunkInfo stated{record.object,      record.codec,           record.raw_size,
                         record.stored_size, chunk.record_offset,    chunk.payload_offset,
                         end.hash,           std::move(record.runs), record.source};
  if (stated != chunk) return Error(Errc::kBadImage, fmt::format("chunk {} and the index differ", i));
  return {};
}

Result<void> ImageReader::Impl::read_chunk(std::size_t i, std::span<std::byte> out) const {
  if (i >= chunks().size()) return Error(Errc::kInvalidArgument, fmt::format("there is no chunk {}", i));
  const ChunkInfo& chunk = chunks_[i];
  if (out.size() != chunk.raw_size) return Error(Errc::kInvalidArgument, "read_chunk: the buffer has another size");
  STASIS_TRY(keep_going());
  STASIS_TRY(check_chunk_frame(i));
  if (chunk.codec == Codec::kParent) {
    STASIS_TRY(read_inherited(chunk, out));
  } else if (chunk.runs.empty()) {
    STASIS_TRY(verify_payload(chunk));
  } else {
    STASIS_TRY(decode_payload(chunk, out));
  }
  count(chunk);
  return {};
}

// The payload's pages, verified.
Result<void> ImageReader::Impl::decode_payload(const ChunkInfo& chunk, std::span<std::byte> out) const {
  if (chunk.codec == Codec::kNone) {
    STASIS_TRY(read_exactly_at(*source_, out, chunk.payload_offset));
    if (hash_bytes(out) != chunk.hash) return damaged_chunk(chunk);
    return {};
  }
  const auto stored = STASIS_TRY(read_range(*source_, chunk.payload_offset, chunk.stored_size));
  if (hash_bytes(stored) != chunk.hash) return damaged_chunk(chunk);
  return decompress(chunk.codec, stored, out);
}

Result<void> ImageReader::Impl::verify_payload(const ChunkInfo& chunk) const {
  if (source_->fd() >= 0) {
    if (STASIS_TRY(hash_file_range(source_->fd(), chunk.payload_offset, chunk.stored_size)) != chunk.hash) {
      return damaged_chunk(chunk);
    }
    return {};
  }
  const auto stored = STASIS_TRY(read_range(*source_, chunk.payload_offset, chunk.stored_size));
  return hash_bytes(stored) == chunk.hash ? Result<void>() : damaged_chunk(chunk);
}

Result<void> ImageReader::Impl::verify_chunk(std::size_t i) const {
  if (i >= chunks().size()) return Error(Errc::kInvalidArgument, fmt::format("there is no chunk {}", i));
  const ChunkInfo& chunk = chunks_[i];
  STASIS_TRY(keep_going());
  STASIS_TRY(check_chunk_frame(i));
  STASIS_TRY(verify_payload(chunk));
  if (chunk.codec == Codec::kParent) STASIS_TRY(find_inherited(chunk));
  count(chunk);
  return {};
}

Result<std::optional<ChunkInfo>> ImageReader::Impl::next_chunk(std::vector<std::byte>& buffer) {
  if (!seekable()) return next_stream_chunk(buffer, Inherited::kFetch);
  while (next_chunk_ < chunks_.size() && chunks_[next_chunk_].runs.empty()) {
    STASIS_TRY(verify_chunk(next_chunk_));
    ++next_chunk_;
  }
  if (next_chunk_ == chunks_.size()) return std::optional<ChunkInfo>();
  const std::size_t i = next_chunk_;
  buffer.resize(static_cast<std::size_t>(chunks_[i].raw_size));
  STASIS_TRY(read_chunk(i, buffer));
  ++next_chunk_;
  return std::optional<ChunkInfo>(chunks_[i]);
}

// ---- streams --------------------------------------------------------------------------------------------------------

Result<std::optional<ChunkInfo>> ImageReader::Impl::next_stream_chunk(std::vector<std::byte>& buffer,
                                                                      Inherited inherited) {
  if (finished_) return std::optional<ChunkInfo>();
  STASIS_TRY(keep_going());
  auto next = STASIS_TRY(take_stream_chunk(buffer, inherited));
  while (next && next->runs.empty()) next = STASIS_TRY(take_stream_chunk(buffer, inherited));
  return next;
}

Result<std::optional<ChunkInfo>> ImageReader::Impl::take_stream_chunk(std::vector<std::byte>& buffer,
                                                                      Inherited inherited) {
  const std::uint64_t offset = stream_offset_;
  const StreamRecord record = STASIS_TRY(read_stream_record(*source_, offset, index_bound_));
  stream_offset_ += kRecordHeaderSize + record.payload.size();
  if (record.type == RecordType::kIndex) {
    STASIS_TRY(read_stream_ending(record, offset));
    return std::optional<ChunkInfo>();
  }
  chunks_.push_back(STASIS_TRY(read_stream_chunk(record, offset, buffer)));
  index_bound_ += 2 * (record.payload.size() + kRecordHeaderSize + sizeof(ChunkInfo));
  const ChunkInfo& chunk = chunks_.back();
  if (chunk.codec == Codec::kParent && inherited == Inherited::kFetch) {
    buffer.resize(static_cast<std::size_t>(chunk.raw_size));
    STASIS_TRY(read_inherited(chunk, buffer));
  }
  count(chunk);
  return std::optional<ChunkInfo>(chunk);
}

Result<ChunkInfo> ImageReader::Impl::read_stream_chunk(const StreamRecord& record, std::uint64_t offset,
                                                       std::vector<std::byte>& buffer) {
  ChunkRecord chunk = STASIS_TRY(decode_as<ChunkRecord>(record));
  STASIS_TRY(check_chunk(chunk, structure_.environment().page_size));
  if (stream_offset_ % kPayloadAlignment != 0) return Error(Errc::kBadImage, "a chunk's payload is not aligned");
  ChunkInfo info{chunk.object,   chunk.codec, chunk.raw_size,        chunk.stored_size, offset,
                 stream_offset_, {},          std::move(chunk.runs), chunk.source};
  STASIS_TRY(check_source(info));
  std::vector<std::byte> stored;
  std::vector<std::byte>& target = info.codec == Codec::kNone ? buffer : stored;
  target.clear();
  STASIS_TRY(append_from(*source_, info.stored_size, target));
  stream_offset_ += info.stored_size;
  const StreamRecord foot = STASIS_TRY(read_stream_record(*source_, stream_offset_, kMaxRecordBytes));
  stream_offset_ += kRecordHeaderSize + foot.payload.size();
  info.hash = STASIS_TRY(decode_as<ChunkEndRecord>(foot)).hash;
  if (hash_bytes(target) != info.hash) return damaged_chunk(info);
  if (info.codec != Codec::kNone && info.codec != Codec::kParent) {
    buffer.resize(static_cast<std::size_t>(info.raw_size));
    STASIS_TRY(decompress(info.codec, stored, buffer));
  }
  return info;
}

Result<void> ImageReader::Impl::read_stream_ending(const StreamRecord& index_record, std::uint64_t index_offset) {
  const auto index = STASIS_TRY(decode_as<IndexRecord>(index_record));
  if (index.chunks != chunks_) return Error(Errc::kBadImage, "the index does not list the chunks that came");
  const std::uint64_t trailer_offset = stream_offset_;
  const StreamRecord record = STASIS_TRY(read_stream_record(*source_, trailer_offset, kMaxRecordBytes));
  stream_offset_ += kRecordHeaderSize + record.payload.size();
  const auto trailer = STASIS_TRY(decode_as<TrailerRecord>(record));
  std::array<std::byte, kTailSize> tail{};
  STASIS_TRY(read_exactly(*source_, tail));
  stream_offset_ += tail.size();
  const bool fits = trailer.structure_size == structure_.size() && trailer.index_offset == index_offset &&
                    trailer.total_size == stream_offset_ && trailer.structure_hash == structure_.hash() &&
                    trailer.image_hash == image_hash_of(structure_.hash(), index_record.payload) &&
                    STASIS_TRY(parse_tail(tail)) == trailer_offset;
  if (!fits) return Error(Errc::kBadImage, "the trailer does not fit the image");
  image_hash_ = trailer.image_hash;
  finished_ = true;
  return {};
}

Result<void> ImageReader::Impl::finish() {
  if (seekable()) return {};
  std::vector<std::byte> buffer;
  while (STASIS_TRY(next_stream_chunk(buffer, Inherited::kSkip))) {
  }
  return {};
}

}  // namespace stasis
