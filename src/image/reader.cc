// SPDX-License-Identifier: Apache-2.0
// ImageReader: opens images and hands out structure records in order, with shared objects going to their handler.
// What is verified when: doc/image-format.md, "Reading". Pages: reader_pages.cc, parents: reader_parents.cc.
#include <algorithm>
#include <array>
#include <limits>

#include "image/reader_impl.h"

namespace stasis {

// ---- opening --------------------------------------------------------------------------------------------------------

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

// ---- structure ------------------------------------------------------------------------------------------------------

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

// ---- the public face ------------------------------------------------------------------------------------------------

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
