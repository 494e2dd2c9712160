// SPDX-License-Identifier: Apache-2.0
// ImageWriter. Structure records collect in memory (the tasks may be frozen meanwhile, and a stream may be slow);
// chunks get their place in the file under the lock and are written outside it.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <limits>
#include <mutex>
#include <optional>

#include "base/file.h"
#include "base/page_buffer.h"
#include "base/stream.h"
#include "image/codec.h"
#include "image/direct_file.h"
#include "image/early_chunks.h"
#include "image/format.h"
#include "image/hash.h"
#include "image/output_file.h"
#include "image/zero_pages.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

Error out_of_order(std::string_view what) { return Error(Errc::kInvalidArgument, "image: " + std::string(what)); }

constexpr std::uint64_t kEndOfStructureSize = kRecordHeaderSize + 6 + 8 + 6 + sizeof(ImageHash);

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

bool is_framing(RecordType type) { return (static_cast<std::uint32_t>(type) & ~kIgnorableRecord) < 16; }

}  // namespace

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

// ---- structure ------------------------------------------------------------------------------------------------------

Result<void> ImageWriter::Impl::check_stage(Stage wanted) const {
  if (failure_) return Error(*failure_);
  if (stage_ == wanted) return {};
  switch (wanted) {
    case Stage::kStructure:
      return out_of_order(stage_ == Stage::kStart ? "the first record must be the environment"
                                                  : "structure records are closed");
    default:
      return out_of_order(stage_ == Stage::kOver ? "the image is closed" : "chunks come behind end_structure()");
  }
}

Result<void> ImageWriter::Impl::write_payload(RecordType type, std::span<const std::byte> payload) {
  const std::lock_guard lock(mutex_);
  if (payload.size() > kMaxRecordBytes) return Error(Errc::kOverflow, "image: " + to_string(type) + " is too large");
  if (type == RecordType::kEnvironment && stage_ == Stage::kStart) {
    const auto environment = STASIS_TRY(decode<EnvironmentRecord>(payload, EnvironmentRecord::kName));
    STASIS_TRY(check_page_size(environment.page_size));
    page_size_ = environment.page_size;
    has_parent_ = environment.parent_image.has_value();
    stage_ = Stage::kStructure;
  } else {
    STASIS_TRY(check_stage(Stage::kStructure));
    if (is_framing(type)) return out_of_order("records of " + to_string(type) + " are the writer's own");
  }
  append_record(structure_, type, payload);
  ++records_;
  return {};
}

Result<void> ImageWriter::Impl::begin_object(ObjRef ref, ObjType type) {
  const std::lock_guard lock(mutex_);
  STASIS_TRY(check_stage(Stage::kStructure));
  STASIS_TRY(append_record(structure_, ObjectRecord{ref, type}));
  ++records_;
  return {};
}

Result<void> ImageWriter::Impl::end_structure() {
  const std::lock_guard lock(mutex_);
  STASIS_TRY(check_stage(Stage::kStructure));
  STASIS_TRY(fill_up_structure());
  structure_hash_ = hash_bytes(structure_);
  STASIS_TRY(append_record(structure_, EndOfStructureRecord{records_, structure_hash_}));
  stage_ = Stage::kPages;
  STASIS_TRY(remember(put(structure_, 0)));
  structure_size_ = structure_.size();
  offset_ = std::max(offset_, structure_size_);
  progress_.stored_bytes += structure_size_;
  structure_ = {};
  return {};
}

// What was reserved for the section and is not used. REQUIRES: lock held.
Result<void> ImageWriter::Impl::fill_up_structure() {
  if (structure_room_ == 0) return {};
  const std::uint64_t used = structure_.size() + kEndOfStructureSize;
  if (used == structure_room_) return {};
  if (used + kRecordHeaderSize > structure_room_) {
    return Error(Errc::kOverflow, fmt::format("image: {} bytes of structure and room for {}", used, structure_room_));
  }
  const std::vector<std::byte> nothing(structure_room_ - used - kRecordHeaderSize);
  append_record(structure_, RecordType::kPadding, nothing);
  ++records_;
  return {};
}

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

// ---- chunks before the structure ----

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

// ---- end ------------------------------------------------------------------------------------------------------------

Result<void> ImageWriter::Impl::write_ending() {
  for (std::size_t i = 0; i < finished_.size(); ++i) {
    if (!finished_[i]) return out_of_order(fmt::format("chunk {} was reserved and not finished", i));
  }
  std::vector<std::byte> payload;
  STASIS_TRY(encode(index_, payload));
  if (payload.size() > kMaxIndexBytes) return Error(Errc::kOverflow, "image: the index is too large");
  image_hash_ = image_hash_of(structure_hash_, payload);
  std::vector<std::byte> bytes;
  append_record(bytes, IndexRecord::kType, payload);
  const std::uint64_t trailer_offset = offset_ + bytes.size();
  TrailerRecord trailer{structure_size_, offset_, 0, structure_hash_, image_hash_};
  const std::size_t index_size = bytes.size();
  STASIS_TRY(append_record(bytes, trailer));
  trailer.total_size = offset_ + bytes.size() + kTailSize;
  bytes.resize(index_size);
  STASIS_TRY(append_record(bytes, trailer));
  const auto tail = make_tail(trailer_offset);
  bytes.insert(bytes.end(), tail.begin(), tail.end());
  STASIS_TRY(put(bytes, offset_));
  if (direct_) STASIS_TRY(explain(direct_->trim(trailer.total_size)));
  progress_.stored_bytes = trailer.total_size;
  return {};
}

Result<void> ImageWriter::Impl::publish() {
  const std::lock_guard lock(mutex_);
  STASIS_TRY(check_stage(Stage::kPages));
  Result<void> done = write_ending();
  stage_ = Stage::kOver;
  if (done && file_) done = file_->publish(options_.durability);
  if (!done && file_) file_->discard();
  return remember(std::move(done));
}

void ImageWriter::Impl::abort(const Error& reason) {
  const std::lock_guard lock(mutex_);
  if (stage_ == Stage::kOver) return;
  const bool nothing_sent = stage_ != Stage::kPages;
  stage_ = Stage::kOver;
  if (file_) return file_->discard();
  if (failure_) return;  // the stream stopped inside a record: its end speaks for itself
  std::vector<std::byte> bytes;
  if (nothing_sent) {
    const auto preamble = make_preamble();
    bytes.assign(preamble.begin(), preamble.end());
  }
  const ErrorRecord record{static_cast<std::uint16_t>(reason.code()), reason.to_string()};
  // Whoever does not take it soon does not hear why.
  constexpr std::chrono::seconds kSoon(1);
  const KeepGoing for_a_moment = [&](std::chrono::nanoseconds stalled) -> Result<void> {
    return stalled < kSoon ? Result<void>() : Result<void>(Error(reason));
  };
  if (append_record(bytes, record)) (void)remember(write_stream(stream_, bytes, for_a_moment));
}

// ---- the public face ------------------------------------------------------------------------------------------------

Result<void> EarlyChunks::reserve_structure(std::uint64_t bytes) { return writer_.impl_->reserve_structure(bytes); }
Result<ChunkSlot> EarlyChunks::reserve(std::span<const PageRun> runs) { return writer_.impl_->reserve_early(runs); }
Result<void> EarlyChunks::write(const ChunkSlot& slot, std::span<const std::byte> payload) {
  return writer_.impl_->write_early(slot, payload);
}
Result<void> EarlyChunks::finish(const ChunkSlot& slot, ObjRef object, const ImageHash* hash) {
  return writer_.impl_->finish_early(slot, object, hash);
}
Result<void> EarlyChunks::drop(const ChunkSlot& slot) { return writer_.impl_->drop_early(slot); }
Result<void> EarlyChunks::forget() { return writer_.impl_->forget_early(); }

ImageWriter::ImageWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ImageWriter::ImageWriter(ImageWriter&&) noexcept = default;
ImageWriter& ImageWriter::operator=(ImageWriter&&) noexcept = default;
ImageWriter::~ImageWriter() = default;

Result<ImageWriter> ImageWriter::create(const std::string& path, WriterOptions options) {
  OutputFile file = STASIS_TRY(OutputFile::create(path, options.staging, options.existing));
  return ImageWriter(std::make_unique<Impl>(std::optional<OutputFile>(std::move(file)), -1, std::move(options)));
}

Result<ImageWriter> ImageWriter::to_stream(int fd, WriterOptions options) {
  return ImageWriter(std::make_unique<Impl>(std::nullopt, fd, std::move(options)));
}

Result<void> ImageWriter::write_payload(RecordType type, std::span<const std::byte> payload) {
  return impl_->write_payload(type, payload);
}
Result<void> ImageWriter::copy(const RawRecord& record) {
  if (record.type != RecordType::kObject) return impl_->write_payload(record.type, record.payload);
  const auto object = STASIS_TRY(decode<ObjectRecord>(record.payload, ObjectRecord::kName));
  return impl_->begin_object(object.ref, object.type);
}
Result<void> ImageWriter::begin_object(ObjRef ref, ObjType type) { return impl_->begin_object(ref, type); }
Result<void> ImageWriter::end_structure() { return impl_->end_structure(); }

Result<void> ImageWriter::add_chunk(ObjRef object, std::span<const PageRun> runs, std::span<const std::byte> payload,
                                    ZeroPages zero_pages) {
  if (zero_pages == ZeroPages::kKeep) return impl_->add_chunk(object, runs, payload);
  const auto rest = STASIS_TRY(drop_zero_pages(runs, payload, impl_->page_size()));
  if (!rest) return impl_->add_chunk(object, runs, payload);
  if (rest->runs.empty()) return {};
  return impl_->add_chunk(object, rest->runs, rest->payload);
}

Result<void> ImageWriter::inherit(ObjRef object, std::span<const PageRun> runs, ObjRef source) {
  return impl_->inherit(object, runs, source);
}

bool ImageWriter::seekable() const { return impl_->seekable(); }
Result<ChunkSlot> ImageWriter::reserve_chunk(ObjRef object, std::span<const PageRun> runs) {
  return impl_->reserve_chunk(object, runs);
}
Result<void> ImageWriter::finish_chunk(const ChunkSlot& slot) { return impl_->finish_chunk(slot, nullptr); }
Result<void> ImageWriter::finish_chunk(const ChunkSlot& slot, const ImageHash& hash) {
  return impl_->finish_chunk(slot, &hash);
}
void ImageWriter::write_directly() { impl_->write_directly(); }
Result<void> ImageWriter::publish() { return impl_->publish(); }
void ImageWriter::abort(const Error& reason) { impl_->abort(reason); }
ImageHash ImageWriter::image_hash() const { return impl_->image_hash(); }
ImageProgress ImageWriter::progress() const { return impl_->progress(); }
std::string ImageWriter::staging_path() const { return impl_->staging_path(); }

}  // namespace stasis
