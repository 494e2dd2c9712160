// SPDX-License-Identifier: Apache-2.0
// ImageWriter. Structure records collect in memory (the tasks may be frozen meanwhile, and a stream may be slow).
// Chunks: writer_chunks.cc.
#include <fmt/format.h>

#include <algorithm>

#include "base/stream.h"
#include "image/early_chunks.h"
#include "image/writer_impl.h"
#include "image/zero_pages.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

constexpr std::uint64_t kEndOfStructureSize = kRecordHeaderSize + 6 + 8 + 6 + sizeof(ImageHash);

bool is_framing(RecordType type) { return (static_cast<std::uint32_t>(type) & ~kIgnorableRecord) < 16; }

}  // namespace

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
