// SPDX-License-Identifier: Apache-2.0
// ImageReader: hands out structure records in order, with shared objects going
// to their handler, and page chunks by number (files) or in order (both). What
// is verified when: doc/image-format.md, "Reading".
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "image/codec.h"
#include "image/format.h"
#include "image/hash.h"
#include "image/page_index.h"
#include "image/parent_file.h"
#include "image/source.h"
#include "image/structure.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

constexpr std::uint64_t kMaxChunkRecordBytes = std::uint64_t{4} << 20;  // 64 MiB in runs of one page, with room

ChunkRecord record_of(const ChunkInfo& chunk) {
  return ChunkRecord{chunk.object, chunk.codec, chunk.raw_size, chunk.stored_size, chunk.runs, chunk.source};
}

Error damaged_chunk(const ChunkInfo& chunk) {
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

}  // namespace

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

// ---- opening
// --------------------------------------------------------------------------------------------------------

Result<void> ImageReader::Impl::open_stream() {
  structure_ = STASIS_TRY(Structure::from_stream(*source_, options_));
  stream_offset_ = structure_.size();
  progress_.stored_bytes = stream_offset_;
  cursor_ = 1;
  return {};
}

Result<void> ImageReader::Impl::open_file() {
  std::array<std::byte, kPreambleSize> preamble{};
  const auto beginning = std::span(preamble).first(std::min<std::uint64_t>(source_->size(), preamble.size()));
  STASIS_TRY(read_exactly_at(*source_, beginning, 0));
  STASIS_TRY(check_magic(beginning));
  if (source_->size() < kPreambleSize + kTailSize) return diagnose_incomplete();
  STASIS_TRY(read_exactly_at(*source_, preamble, 0));
  STASIS_TRY(check_preamble(preamble));
  const std::uint64_t tail_offset = source_->size() - kTailSize;
  std::array<std::byte, kTailSize> tail{};
  STASIS_TRY(read_exactly_at(*source_, tail, tail_offset));
  const auto trailer_offset = parse_tail(tail);
  if (!trailer_offset) return diagnose_incomplete();

  const StreamRecord record = STASIS_TRY(read_file_record(*source_, *trailer_offset, tail_offset));
  const auto trailer = STASIS_TRY(decode_as<TrailerRecord>(record));
  if (trailer.total_size != source_->size()) return Error(Errc::kBadImage, "the image's size is not what it states");
  if (trailer.structure_size > options_.max_structure_bytes || trailer.structure_size > trailer.index_offset) {
    return Error(Errc::kBadImage, "the structure section is larger than allowed");
  }
  auto section = STASIS_TRY(read_range(*source_, 0, trailer.structure_size));
  structure_ = STASIS_TRY(Structure::parse(std::move(section), options_));
  cursor_ = 1;
  if (structure_.hash() != trailer.structure_hash) return Error(Errc::kImageChecksum, "structure and trailer differ");
  STASIS_TRY(load_index(trailer, *trailer_offset));
  progress_.stored_bytes = trailer.structure_size;
  return {};
}

Result<void> ImageReader::Impl::load_index(const TrailerRecord& trailer, std::uint64_t trailer_offset) {
  if (trailer_offset > kMaxIndexBytes && trailer.index_offset < trailer_offset - kMaxIndexBytes) {
    return Error(Errc::kBadImage, "the index is larger than allowed");
  }
  const StreamRecord record = STASIS_TRY(read_file_record(*source_, trailer.index_offset, trailer_offset));
  auto index = STASIS_TRY(decode_as<IndexRecord>(record));
  if (image_hash_of(structure_.hash(), record.payload) != trailer.image_hash) {
    return Error(Errc::kImageChecksum, "index and trailer differ");
  }
  STASIS_TRY(check_index(index, trailer));
  chunks_ = std::move(index.chunks);
  index_offset_ = trailer.index_offset;
  image_hash_ = trailer.image_hash;
  return {};
}

// Chunks must fill the page section without gaps, so that no byte of the file
// escapes verification.
Result<void> ImageReader::Impl::check_index(const IndexRecord& index, const TrailerRecord& trailer) const {
  std::uint64_t next = trailer.structure_size;
  for (const ChunkInfo& chunk : index.chunks) {
    STASIS_TRY(check_chunk(record_of(chunk), structure_.environment().page_size));
    STASIS_TRY(check_source(chunk));
    const bool fits = chunk.record_offset == next && chunk.payload_offset > chunk.record_offset &&
                      chunk.payload_offset - chunk.record_offset <= kMaxChunkRecordBytes &&
                      chunk.payload_offset % kPayloadAlignment == 0 && chunk.payload_offset < trailer.index_offset;
    if (!fits) return Error(Errc::kBadImage, "index: chunks out of place");
    next = chunk.payload_offset + chunk.stored_size + kChunkEndSize;
  }
  if (next != trailer.index_offset) return Error(Errc::kBadImage, "index: chunks are missing");
  return {};
}

// Pages can be in a parent only where there is one.
Result<void> ImageReader::Impl::check_source(const ChunkInfo& chunk) const {
  if (chunk.codec != Codec::kParent || structure_.environment().parent_image) return {};
  return Error(Errc::kBadImage, "pages in the parent of an image that has none");
}

Error ImageReader::Impl::diagnose_incomplete() const {
  Impl stream(sequential(*source_), options_);
  stream.options_.progress = nullptr;
  if (auto opened = stream.open_stream(); !opened) return std::move(opened).error();
  if (auto rest = stream.finish(); !rest) return std::move(rest).error();
  return Error(Errc::kBadImage, "there are bytes behind the image's end");
}

// ---- structure
// ------------------------------------------------------------------------------------------------------

Result<void> ImageReader::Impl::handle_object(const StructureRecord& record) {
  const auto object = STASIS_TRY(decode<ObjectRecord>(structure_.payload(record), ObjectRecord::kName));
  if (!handler_) return Error(Errc::kBadImage, "a shared object where none is expected");
  if (depth_ >= kMaxNesting) {
    return Error(Errc::kImageTooDeep, fmt::format("objects are nested deeper than {}", kMaxNesting));
  }
  if (object.type > std::numeric_limits<ObjType>::max()) {
    return Error(Errc::kBadImage, fmt::format("object {} is of no kind", object.ref.value()));
  }
  ++depth_;
  Result<void> handled = handler_(object.ref, object.type);
  --depth_;
  if (!handled) return std::move(handled).error().note(fmt::format("object {}", object.ref.value()));
  return {};
}

// The next record that is neither an object's header (the handler gets those)
// nor ignorable, unless it is the wanted one. nullptr at the end.
Result<const StructureRecord*> ImageReader::Impl::skip_to_record(RecordType wanted) {
  const auto records = structure_.records();
  while (cursor_ < records.size()) {
    const StructureRecord& record = records[cursor_];
    if (record.type == wanted) return &record;
    if (record.type == RecordType::kObject) {
      ++cursor_;
      STASIS_TRY(handle_object(record));
    } else if (is_ignorable(record.type)) {
      ++cursor_;
    } else {
      return &record;
    }
  }
  return static_cast<const StructureRecord*>(nullptr);
}

Result<std::span<const std::byte>> ImageReader::Impl::next_payload(RecordType wanted, std::string_view name) {
  const StructureRecord* record = STASIS_TRY(skip_to_record(wanted));
  if (record == nullptr) {
    return Error(Errc::kBadImage, fmt::format("the structure section ends where '{}' is expected", name));
  }
  if (record->type != wanted) {
    return Error(Errc::kBadImage, fmt::format("a record of {} where '{}' is expected", to_string(record->type), name));
  }
  ++cursor_;
  return structure_.payload(*record);
}

Result<RecordType> ImageReader::Impl::peek_type() {
  // An ignorable record that the caller may want must be seen, so only objects
  // are dealt with here.
  const auto records = structure_.records();
  while (cursor_ < records.size()) {
    const StructureRecord& record = records[cursor_];
    if (record.type != RecordType::kObject && record.type != RecordType::kPadding) break;
    ++cursor_;
    if (record.type == RecordType::kObject) STASIS_TRY(handle_object(record));
  }
  return cursor_ < records.size() ? records[cursor_].type : RecordType::kEndOfStructure;
}

Result<void> ImageReader::Impl::expect_end() {
  const StructureRecord* record = STASIS_TRY(skip_to_record(RecordType::kEndOfStructure));
  if (record == nullptr) return {};
  return Error(Errc::kBadImage, fmt::format("a record of {} where the end is expected", to_string(record->type)));
}

// ---- pages
// ----------------------------------------------------------------------------------------------------------

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

// ---- streams
// --------------------------------------------------------------------------------------------------------

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

// ---- parents
// --------------------------------------------------------------------------------------------------------

Result<void> ImageReader::Impl::open_parents(const std::string& directory) {
  if (parent_ || !structure_.environment().parent_image) return {};
  uid_t owner = ::geteuid();
  FileIds files;
  struct ::stat st{};
  if (source_->fd() >= 0 && ::fstat(source_->fd(), &st) == 0 && S_ISREG(st.st_mode)) {
    owner = st.st_uid;
    files.emplace_back(st.st_dev, st.st_ino);
  }
  return open_parents(directory, owner, files);
}

Result<void> ImageReader::Impl::open_parents(const std::string& directory, uid_t owner, FileIds& files) {
  const EnvironmentRecord& environment = structure_.environment();
  if (!environment.parent_image) return {};
  Result<void> why;
  for (const std::string& path : parent_paths(environment.parent_path, directory)) {
    auto opened = open_parent(path, owner, files);
    if (opened) {
      parent_ = std::move(*opened);
      return parent_->impl_->open_parents(directory_of(path), owner, files);
    }
    if (why) why = std::move(opened).error();
  }
  return why;
}

Result<std::unique_ptr<ImageReader>> ImageReader::Impl::open_parent(const std::string& path, uid_t owner,
                                                                    FileIds& files) const {
  const EnvironmentRecord& ours = structure_.environment();
  ParentFile file = STASIS_TRY(open_parent_file(path, owner));
  const std::pair id(file.stat.st_dev, file.stat.st_ino);
  if (std::ranges::find(files, id) != files.end()) {
    return Error(Errc::kParentImage, fmt::format("parent image {} is its own ancestor", path));
  }
  if (files.size() >= kMaxChain) {
    return Error(Errc::kParentImage, fmt::format("more than {} images in a row", kMaxChain));
  }
  auto impl = std::make_unique<Impl>(STASIS_TRY(own_source(std::move(file.fd))),
                                     ReaderOptions{.keep_going = options_.keep_going});
  if (auto good = impl->open(); !good) {
    return std::move(good).error().note(fmt::format("parent image {}", path)).with_code(Errc::kParentImage);
  }
  const EnvironmentRecord& theirs = impl->structure().environment();
  if (impl->image_hash() != *ours.parent_image || theirs.arch != ours.arch || theirs.page_size != ours.page_size) {
    return Error(Errc::kParentImage,
                 fmt::format("{} is not the parent image that was there: its identity is {} instead of {}", path,
                             to_hex(impl->image_hash()), to_hex(*ours.parent_image)));
  }
  impl->path_ = path;
  files.push_back(id);
  return std::unique_ptr<ImageReader>(new ImageReader(std::move(impl)));
}

Error ImageReader::Impl::without_parent() const {
  return Error(Errc::kParentImage,
               fmt::format("the image holds only what differs from its parent {}, which is not open",
                           structure_.environment().parent_path));
}

Result<const PageIndex*> ImageReader::Impl::page_index() const {
  if (!seekable()) return Error(Errc::kInvalidArgument, "pages of a stream come in its order");
  const std::lock_guard lock(index_mutex_);
  if (!page_index_) page_index_ = STASIS_TRY(PageIndex::make(chunks_));
  return &*page_index_;
}

Result<std::vector<PageRun>> ImageReader::Impl::page_runs(ObjRef object) const {
  std::vector<PageRun> runs;
  for (const PageIndex::Extent& extent : STASIS_TRY(page_index())->extents(object)) {
    if (!runs.empty() && runs.back().start + runs.back().length == extent.start) {
      runs.back().length += extent.length;
    } else {
      runs.push_back({extent.start, extent.length});
    }
  }
  return runs;
}

// Sorts what is wanted by where it lies: each chunk is read once, and what is
// in the parent is the parent's turn.
Result<void> ImageReader::Impl::read_targets(ObjRef object, std::span<const Target> targets) const {
  const PageIndex& index = *STASIS_TRY(page_index());
  std::map<std::size_t, std::vector<Part>> own;
  std::map<std::int32_t, std::vector<Target>> inherited;
  for (const Target& target : targets) {
    const PageRun run{target.start, target.out.size()};
    const bool found = index.find(object, run, [&](const PageIndex::Extent& e) {
      const auto out =
          target.out.subspan(static_cast<std::size_t>(e.start - target.start), static_cast<std::size_t>(e.length));
      const ChunkInfo& chunk = chunks_[e.chunk];
      if (chunk.source) {
        inherited[chunk.source->value()].push_back({e.start, out});
      } else {
        own[e.chunk].push_back({e.offset, out});
      }
    });
    if (!found) {
      return Error(Errc::kBadImage, fmt::format("pages of object {} at {:x} are not in {}", object.value(),
                                                target.start, path_.empty() ? "the image" : path_));
    }
  }
  for (const auto& [chunk, parts] : own) STASIS_TRY(read_parts(chunk, parts));
  if (!inherited.empty() && !parent_) return without_parent();
  for (const auto& [source, pages] : inherited) STASIS_TRY(parent_->impl_->read_targets(ObjRef(source), pages));
  return {};
}

Result<void> ImageReader::Impl::read_inherited(const ChunkInfo& chunk, std::span<std::byte> out) const {
  if (!parent_) return without_parent();
  std::vector<Target> targets;
  for (const PageRun& run : chunk.runs) {
    targets.push_back({run.start, out.first(static_cast<std::size_t>(run.length))});
    out = out.subspan(static_cast<std::size_t>(run.length));
  }
  auto read = parent_->impl_->read_targets(*chunk.source, targets);
  if (!read && !parent_->path().empty()) return std::move(read).error().note("parent image " + parent_->path());
  return read;
}

// Does the parent have them? (Whether they are right it tells itself.)
Result<void> ImageReader::Impl::find_inherited(const ChunkInfo& chunk) const {
  if (!parent_) return without_parent();
  const PageIndex& index = *STASIS_TRY(parent_->impl_->page_index());
  for (const PageRun& run : chunk.runs) {
    if (index.find(*chunk.source, run, [](const PageIndex::Extent&) {})) continue;
    return Error(Errc::kBadImage,
                 fmt::format("pages of object {} at {:x} are not in the parent", chunk.source->value(), run.start));
  }
  return {};
}

// Some of a chunk's pages, the chunk's hash being checked once.
Result<void> ImageReader::Impl::read_parts(std::size_t i, std::span<const Part> parts) const {
  const ChunkInfo& chunk = chunks_[i];
  const auto copy = [&](std::span<const std::byte> pages) {
    for (const Part& part : parts) std::memcpy(part.out.data(), pages.data() + part.offset, part.out.size());
  };
  std::uint64_t wanted = 0;
  for (const Part& part : parts) wanted += part.out.size();
  {
    std::unique_lock lock(parts_mutex_);
    if (decoded_ && decoded_chunk_ == i) {
      const auto pages = decoded_;
      lock.unlock();
      copy(*pages);
      return {};
    }
  }
  if (chunk.codec == Codec::kNone && wanted < chunk.raw_size / 2) {
    std::unique_lock lock(parts_mutex_);
    verified_.resize(chunks_.size());
    const bool known = verified_[i];
    lock.unlock();
    if (!known) STASIS_TRY(verify_payload(chunk));
    for (const Part& part : parts) {
      STASIS_TRY(read_exactly_at(*source_, part.out, chunk.payload_offset + part.offset));
    }
    lock.lock();
    verified_[i] = true;
    return {};
  }
  const auto pages = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(chunk.raw_size));
  STASIS_TRY(decode_payload(chunk, *pages));
  copy(*pages);
  const std::lock_guard lock(parts_mutex_);
  decoded_ = pages;
  decoded_chunk_ = i;
  return {};
}

// ---- the public face
// ------------------------------------------------------------------------------------------------

ImageReader::ImageReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ImageReader::ImageReader(ImageReader&&) noexcept = default;
ImageReader& ImageReader::operator=(ImageReader&&) noexcept = default;
ImageReader::~ImageReader() = default;

Result<ImageReader> ImageReader::open(const std::string& path, ReaderOptions options) {
  auto opened = [&]() -> Result<ImageReader> {
    auto impl = std::make_unique<Impl>(STASIS_TRY(open_source(path, options.keep_going)), std::move(options));
    STASIS_TRY(impl->open());
    return ImageReader(std::move(impl));
  }();
  // The open itself names the path already.
  if (!opened && opened.error().sys_errno() == 0) return std::move(opened).error().note(path);
  return opened;
}

Result<ImageReader> ImageReader::from_fd(int fd, ReaderOptions options) {
  auto impl = std::make_unique<Impl>(STASIS_TRY(borrow_source(fd, options.keep_going)), std::move(options));
  STASIS_TRY(impl->open());
  return ImageReader(std::move(impl));
}

Result<ImageReader> ImageReader::from_bytes(std::span<const std::byte> image, Access access, ReaderOptions options) {
  auto impl = std::make_unique<Impl>(memory_source(image, access), std::move(options));
  STASIS_TRY(impl->open());
  return ImageReader(std::move(impl));
}

const EnvironmentRecord& ImageReader::environment() const { return impl_->structure().environment(); }
void ImageReader::set_object_handler(ObjectHandler handler) { impl_->set_object_handler(std::move(handler)); }
Result<std::span<const std::byte>> ImageReader::next_payload(RecordType type, std::string_view name) {
  return impl_->next_payload(type, name);
}
Result<RecordType> ImageReader::peek_type() { return impl_->peek_type(); }
Result<void> ImageReader::expect_end() { return impl_->expect_end(); }
std::size_t ImageReader::record_count() const { return impl_->structure().records().size(); }
RawRecord ImageReader::record(std::size_t i) const {
  const StructureRecord& record = impl_->structure().records()[i];
  return {record.type, impl_->structure().payload(record)};
}
Result<std::optional<ChunkInfo>> ImageReader::next_chunk(std::vector<std::byte>& buffer) {
  return impl_->next_chunk(buffer);
}
bool ImageReader::seekable() const { return impl_->seekable(); }
std::span<const ChunkInfo> ImageReader::chunks() const { return impl_->chunks(); }
Result<void> ImageReader::read_chunk(std::size_t i, std::span<std::byte> out) const {
  return impl_->read_chunk(i, out);
}
Result<void> ImageReader::verify_chunk(std::size_t i) const { return impl_->verify_chunk(i); }
Result<void> ImageReader::open_parents(const std::string& directory) { return impl_->open_parents(directory); }
const ImageReader* ImageReader::parent() const { return impl_->parent(); }
const std::string& ImageReader::path() const { return impl_->path(); }
Result<std::vector<PageRun>> ImageReader::page_runs(ObjRef object) const { return impl_->page_runs(object); }
Result<void> ImageReader::read_pages(ObjRef object, std::span<const PageRun> runs, std::span<std::byte> out) const {
  std::vector<Impl::Target> targets;
  for (const PageRun& run : runs) {
    if (run.length > out.size()) return Error(Errc::kInvalidArgument, "read_pages: the buffer is too small");
    targets.push_back({run.start, out.first(static_cast<std::size_t>(run.length))});
    out = out.subspan(static_cast<std::size_t>(run.length));
  }
  return impl_->read_targets(object, targets);
}
int ImageReader::fd() const { return impl_->fd(); }
Result<void> ImageReader::finish() { return impl_->finish(); }
ImageHash ImageReader::image_hash() const { return impl_->image_hash(); }
ImageProgress ImageReader::progress() const { return impl_->progress(); }

}  // namespace stasis
