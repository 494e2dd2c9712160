// SPDX-License-Identifier: Apache-2.0
// ImageWriter: chunks get their place in the file under the lock and are written outside it.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/file.h"
#include "base/stream.h"
#include "image/codec.h"
#include "image/early_chunks.h"
#include "image/writer_impl.h"

namespace stasis {
namespace {

// Zeros, as a hole where the file system can.
Result<void> clear_file_range(int fd, std::uint64_t offset, std::uint64_t length) {
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(length)) == 0) {
    return {};
  }
  const std::vector<std::byte> zeros(std::min<std::uint64_t>(length, std::uint64_t{1} << 20));
  for (std::uint64_t done = 0; done < length;) {
    const auto part = std::span(zeros).first(std::min<std::uint64_t>(zeros.size(), length - done));
    STASIS_TRY(pwrite_full(fd, part, static_cast<off_t>(offset + done)));
    done += part.size();
  }
  return {};
}

}  // namespace

// ---- chunks ---------------------------------------------------------------------------------------------------------

// Gives a chunk its place behind the last one. REQUIRES: lock held.
Result<ImageWriter::Impl::Placed> ImageWriter::Impl::place(const ChunkRecord& record) {
  if (failure_ || structure_room_ == 0 || stage_ == Stage::kOver) STASIS_TRY(check_stage(Stage::kPages));
  Placed placed{index_.chunks.size(), offset_, 0, {}};
  placed.record = STASIS_TRY(make_chunk_record(record, offset_));
  placed.payload_offset = offset_ + placed.record.size();
  const std::uint64_t end = placed.payload_offset + record.stored_size + kChunkEndSize;
  if (end > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()) - kMaxIndexBytes) {
    return Error(Errc::kOverflow, "image: larger than a file can be");
  }
  index_.chunks.push_back(ChunkInfo{record.object,
                                    record.codec,
                                    record.raw_size,
                                    record.stored_size,
                                    placed.record_offset,
                                    placed.payload_offset,
                                    {},
                                    record.runs,
                                    record.source});
  finished_.push_back(false);
  offset_ = end;
  if (direct_ && record.stored_size >= DirectFile::kWorthIt) direct_->prepare(end);
  return placed;
}

Result<void> ImageWriter::Impl::put(std::span<const std::byte> bytes, std::uint64_t offset) {
  if (!file_) {
    auto sent = write_stream(stream_, bytes, options_.keep_going);
    if (!sent) return std::move(sent).error().note("the stream");
    return sent;
  }
  return explain(pwrite_full(file_->fd(), bytes, static_cast<off_t>(offset)));
}

// Directly what can go so.
Result<void> ImageWriter::Impl::put_payload(std::span<const std::byte> bytes, std::uint64_t offset) {
  const auto directly = direct_ ? direct_->fitting(bytes, offset) : std::span<const std::byte>();
  if (!directly.empty()) {
    auto written = direct_->write(directly, offset);
    // A file system that takes it in some places and not in others.
    if (!written && written.error().sys_errno() == EINVAL) return put(bytes, offset);
    STASIS_TRY(explain(std::move(written)));
  }
  const auto rest = bytes.subspan(directly.size());
  return rest.empty() ? Result<void>() : put(rest, offset + directly.size());
}

Result<void> ImageWriter::Impl::explain(Result<void> written) const {
  if (written) return written;
  Error error = std::move(written).error().note(file_->path());
  if (error.sys_errno() != ENOSPC && error.sys_errno() != EDQUOT) return error;
  return std::move(error).with_help("free some space, or write to another file system (-o); --compress needs less");
}

// Keeps the medium's first failure. REQUIRES: lock held.
Result<void> ImageWriter::Impl::remember(Result<void> result) {
  if (!result && !failure_) failure_ = result.error();
  return result;
}

Result<void> ImageWriter::Impl::put_chunk(const Placed& placed, std::span<const std::byte> payload,
                                          std::span<const std::byte> end) {
  STASIS_TRY(put(placed.record, placed.record_offset));
  STASIS_TRY(put_payload(payload, placed.payload_offset));
  return put(end, placed.payload_offset + payload.size());
}

PageBuffer ImageWriter::Impl::take_buffer() {
  const std::lock_guard lock(mutex_);
  if (buffers_.empty()) return {};
  PageBuffer buffer = std::move(buffers_.back());
  buffers_.pop_back();
  return buffer;
}

void ImageWriter::Impl::give_back(PageBuffer buffer) {
  const std::lock_guard lock(mutex_);
  buffers_.push_back(std::move(buffer));
}

// A chunk is whole. REQUIRES: lock held.
void ImageWriter::Impl::count(std::size_t index, const ImageHash& hash) {
  ChunkInfo& chunk = index_.chunks[index];
  chunk.hash = hash;
  finished_[index] = true;
  progress_.raw_bytes += chunk.raw_size;
  progress_.stored_bytes += chunk.payload_offset - chunk.record_offset + chunk.stored_size + kChunkEndSize;
  ++progress_.chunks;
  if (options_.progress) options_.progress(progress_);
}

Result<void> ImageWriter::Impl::add_chunk(ObjRef object, std::span<const PageRun> runs,
                                          std::span<const std::byte> payload) {
  if (runs.empty()) return out_of_order("a chunk without pages");
  ChunkRecord record{object, Codec::kNone, payload.size(), payload.size(), {runs.begin(), runs.end()}, {}};
  if (auto good = check_chunk(record, page_size_); !good) {
    return std::move(good).error().with_code(Errc::kInvalidArgument);
  }
  if (options_.codec == Codec::kNone) return add_placed(record, payload);
  PageBuffer buffer = take_buffer();
  const auto room = buffer.take(worthwhile_size(payload.size()));
  if (const auto size = STASIS_TRY(compress(options_.codec, options_.level, payload, room))) {
    record.codec = options_.codec;
    record.stored_size = *size;
    payload = room.first(*size);
  }
  STASIS_TRY(add_placed(record, payload));
  give_back(std::move(buffer));
  return {};
}

Result<void> ImageWriter::Impl::inherit(ObjRef object, std::span<const PageRun> runs, ObjRef source) {
  if (!has_parent_) return out_of_order("pages of a parent that the environment does not name");
  ChunkRecord record{.object = object, .codec = Codec::kParent, .source = source};
  const auto flush = [&]() -> Result<void> {
    if (record.runs.empty()) return {};
    if (auto good = check_chunk(record, page_size_); !good) {
      return std::move(good).error().with_code(Errc::kInvalidArgument);
    }
    STASIS_TRY(add_placed(record, {}));
    record.runs.clear();
    record.raw_size = 0;
    return {};
  };
  for (PageRun run : runs) {
    while (run.length > 0) {
      const std::uint64_t part = std::min(run.length, kMaxChunkBytes - record.raw_size);
      record.runs.push_back({run.start, part});
      record.raw_size += part;
      run.start += part;
      run.length -= part;
      if (record.raw_size == kMaxChunkBytes) STASIS_TRY(flush());
    }
  }
  return flush();
}

Result<void> ImageWriter::Impl::add_placed(const ChunkRecord& record, std::span<const std::byte> payload) {
  if (options_.keep_going) STASIS_TRY(options_.keep_going(std::chrono::nanoseconds(0)));
  const ImageHash hash = hash_bytes(payload);
  std::vector<std::byte> end;
  STASIS_TRY(append_record(end, ChunkEndRecord{hash}));

  std::unique_lock lock(mutex_);
  const Placed placed = STASIS_TRY(place(record));
  if (file_) lock.unlock();  // a stream takes one chunk at a time
  Result<void> written = put_chunk(placed, payload, end);
  if (file_) lock.lock();
  STASIS_TRY(remember(std::move(written)));
  count(placed.index, hash);
  return {};
}

Result<ChunkSlot> ImageWriter::Impl::reserve_chunk(ObjRef object, std::span<const PageRun> runs) {
  if (!file_) return out_of_order("a stream has no room to reserve");
  return reserve(ChunkRecord{object, Codec::kNone, 0, 0, {runs.begin(), runs.end()}, {}});
}

Result<ChunkSlot> ImageWriter::Impl::reserve(ChunkRecord record) {
  if (record.runs.empty()) return out_of_order("a chunk without pages");
  for (const PageRun& run : record.runs) record.raw_size += run.length;
  record.stored_size = record.raw_size;
  if (auto good = check_chunk(record, page_size_); !good) {
    return std::move(good).error().with_code(Errc::kInvalidArgument);
  }
  std::unique_lock lock(mutex_);
  const Placed placed = STASIS_TRY(place(record));
  lock.unlock();
  Result<void> written = put(placed.record, placed.record_offset);
  lock.lock();
  STASIS_TRY(remember(std::move(written)));
  return ChunkSlot{placed.index, file_->fd(), placed.payload_offset, record.stored_size};
}

Result<void> ImageWriter::Impl::finish_chunk(const ChunkSlot& slot, const ImageHash* given) {
  {
    const std::lock_guard lock(mutex_);
    STASIS_TRY(check_stage(Stage::kPages));
    if (slot.id >= index_.chunks.size() || finished_[slot.id] || slot.offset != index_.chunks[slot.id].payload_offset ||
        slot.length != index_.chunks[slot.id].stored_size) {
      return out_of_order("this slot is not open");
    }
  }
  const ImageHash hash = given != nullptr ? *given : STASIS_TRY(hash_file_range(slot.fd, slot.offset, slot.length));
  std::vector<std::byte> end;
  STASIS_TRY(append_record(end, ChunkEndRecord{hash}));
  Result<void> written = put(end, slot.offset + slot.length);
  const std::lock_guard lock(mutex_);
  STASIS_TRY(remember(std::move(written)));
  if (!finished_[slot.id]) count(slot.id, hash);
  return {};
}

// ---- before the structure -------------------------------------------------------------------------------------------

Result<void> ImageWriter::Impl::reserve_structure(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  STASIS_TRY(check_stage(Stage::kStart));
  if (!file_ || !index_.chunks.empty()) return out_of_order("room for the structure comes first, in a file");
  structure_room_ = offset_ = (bytes + kPayloadAlignment - 1) / kPayloadAlignment * kPayloadAlignment;
  return {};
}

Result<ChunkSlot> ImageWriter::Impl::reserve_early(std::span<const PageRun> runs) {
  if (!file_ || structure_room_ == 0) return out_of_order("no room was kept for the structure");
  // Some object: all numbers take the same room.
  return reserve(ChunkRecord{ObjRef(1), Codec::kNone, 0, 0, {runs.begin(), runs.end()}, {}});
}

Result<ChunkInfo> ImageWriter::Impl::early_chunk(const ChunkSlot& slot) const {
  const std::lock_guard lock(mutex_);
  STASIS_TRY(check_stage(Stage::kPages));
  if (slot.id >= index_.chunks.size() || finished_[slot.id] || slot.offset != index_.chunks[slot.id].payload_offset ||
      slot.length != index_.chunks[slot.id].stored_size) {
    return out_of_order("this slot is not open");
  }
  return ChunkInfo(index_.chunks[slot.id]);
}

// Frames what lies in the slot as that chunk.
Result<void> ImageWriter::Impl::close_early(const ChunkSlot& slot, const ChunkInfo& chunk, const ImageHash* given) {
  const ChunkRecord record{chunk.object, chunk.codec, chunk.raw_size, chunk.stored_size, chunk.runs, chunk.source};
  const auto head = STASIS_TRY(make_chunk_record(record, chunk.record_offset));
  const ImageHash hash = given ? *given : STASIS_TRY(hash_file_range(slot.fd, chunk.payload_offset, chunk.stored_size));
  std::vector<std::byte> end;
  STASIS_TRY(append_record(end, ChunkEndRecord{hash}));
  Result<void> written = put(head, chunk.record_offset);
  if (written) written = put(end, chunk.payload_offset + chunk.stored_size);
  const std::lock_guard lock(mutex_);
  STASIS_TRY(remember(std::move(written)));
  index_.chunks[slot.id] = chunk;
  count(slot.id, hash);
  return {};
}

Result<void> ImageWriter::Impl::write_early(const ChunkSlot& slot, std::span<const std::byte> payload) {
  if (payload.size() != slot.length) return out_of_order("this is not the payload of the slot");
  return put_payload(payload, slot.offset);
}

Result<void> ImageWriter::Impl::finish_early(const ChunkSlot& slot, ObjRef object, const ImageHash* hash) {
  ChunkInfo chunk = STASIS_TRY(early_chunk(slot));
  chunk.object = object;
  return close_early(slot, chunk, hash);
}

Result<void> ImageWriter::Impl::drop_early(const ChunkSlot& slot) {
  ChunkInfo chunk = STASIS_TRY(early_chunk(slot));
  const std::uint64_t end = chunk.payload_offset + chunk.stored_size;
  chunk.raw_size = 0;
  chunk.runs.clear();
  // Without its runs the record may be shorter.
  const auto head = STASIS_TRY(make_chunk_record({.object = chunk.object}, chunk.record_offset));
  chunk.payload_offset = chunk.record_offset + head.size();
  chunk.stored_size = end - chunk.payload_offset;
  STASIS_TRY(clear_file_range(slot.fd, chunk.payload_offset, chunk.stored_size));
  return close_early(slot, chunk, nullptr);
}

Result<void> ImageWriter::Impl::forget_early() {
  const std::lock_guard lock(mutex_);
  if (structure_room_ == 0 || stage_ > Stage::kStructure) return out_of_order("there are no early chunks");
  index_.chunks.clear();
  finished_.clear();
  structure_room_ = offset_ = 0;
  if (::ftruncate(file_->fd(), 0) != 0) return remember(Error::from_errno(errno, "shorten " + file_->path()));
  return {};
}

}  // namespace stasis
