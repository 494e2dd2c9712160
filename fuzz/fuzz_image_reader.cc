// SPDX-License-Identifier: Apache-2.0
// Any bytes as an image: read as a file and as a stream, viewed as text and JSON. No crash, no hang, no memory beyond
// what the input justifies. Each input is tried as it is, then with its checksums put right, since nearly every change
// is stopped by them and what lies behind would never be reached.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "image/format.h"
#include "image/sample_image.h"
#include "image/verify.h"
#include "image/view.h"

namespace {

using namespace stasis;
using Bytes = std::vector<std::byte>;
constexpr auto kRecords = record_registry<sample::LeafRecord, sample::AllRecord, sample::NoteRecord>();

// Walks the records as a reader would and rewrites preamble, checks and hashes to what they should be.
class Repair {
 public:
  explicit Repair(Bytes& image) : image_(image) {}

  void run() {
    if (image_.size() < kPreambleSize) return;
    std::ranges::copy(make_preamble(), image_.begin());
    std::size_t at = kPreambleSize;
    while (image_.size() - at >= kRecordHeaderSize) at = record(at);
  }

 private:
  template <class T>
  T get(std::size_t at) const {
    T value{};
    std::memcpy(&value, image_.data() + at, sizeof value);
    return value;
  }

  // Returns where the next record starts.
  std::size_t record(std::size_t at) {
    const RecordType type{get<std::uint32_t>(at)};
    const std::size_t start = at + kRecordHeaderSize;
    const std::size_t length =
        static_cast<std::size_t>(std::min<std::uint64_t>(get<std::uint64_t>(at + 8), image_.size() - start));
    const auto payload = std::span(image_).subspan(start, length);
    if (type == RecordType::kEndOfStructure) {
      structure_hash_ = hash_bytes(std::span(image_).first(at));
      // The hash is the last field.
      if (length >= sizeof(ImageHash)) put_hash(start + length, structure_hash_);
    }
    if (type == RecordType::kChunkEnd && length >= sizeof(ImageHash)) put_hash(start + length, chunk_hash_);
    if (type == RecordType::kIndex) image_hash_ = image_hash_of(structure_hash_, payload);
    if (type == RecordType::kTrailer && length >= 2 * sizeof(ImageHash) + 6) {
      put_hash(start + length, image_hash_);
      put_hash(start + length - sizeof(ImageHash) - 6, structure_hash_);
    }
    const std::uint64_t check = record_check(type, payload);
    std::memcpy(image_.data() + at + 16, &check, sizeof check);
    std::size_t next = start + length;
    if (type == RecordType::kChunk) {
      if (const auto chunk = decode<ChunkRecord>(payload, "chunk")) {
        const auto stored = static_cast<std::size_t>(std::min<std::uint64_t>(chunk->stored_size, image_.size() - next));
        chunk_hash_ = hash_bytes(std::span(image_).subspan(next, stored));
        next += stored;
      }
    }
    return next;
  }

  void put_hash(std::size_t end, const ImageHash& hash) {
    std::memcpy(image_.data() + end - hash.size(), hash.data(), hash.size());
  }

  Bytes& image_;
  ImageHash structure_hash_{};
  ImageHash chunk_hash_{};
  ImageHash image_hash_{};
};

void read_all(std::span<const std::byte> image, ImageReader::Access access) {
  auto reader = ImageReader::from_bytes(image, access, {.known = kRecords});
  if (!reader) return;
  reader->set_object_handler([&](ObjRef, ObjType) -> Result<void> {
    STASIS_TRY(reader->read<sample::LeafRecord>());
    return {};
  });
  for (;;) {
    const auto type = reader->peek_type();
    if (!type || *type == RecordType::kEndOfStructure) break;
    if (*type == sample::AllRecord::kType ? !reader->read<sample::AllRecord>() : !reader->read<sample::LeafRecord>())
      break;
  }
  (void)verify_image(*reader, {.threads = 1, .known = kRecords});
}

void view_all(std::span<const std::byte> image, ImageReader::Access access) {
  for (const ViewFormat format : {ViewFormat::kText, ViewFormat::kJson}) {
    auto reader = ImageReader::from_bytes(image, access, {});
    if (!reader) return;
    std::size_t size = 0;
    (void)view_image(*reader, {.format = format, .records = kRecords},
                     [&](std::string_view part) { size += part.size(); });
  }
}

void try_image(std::span<const std::byte> image) {
  for (const auto access : {ImageReader::Access::kFile, ImageReader::Access::kStream}) {
    read_all(image, access);
    view_all(image, access);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try_image(bytes);
  Bytes repaired(bytes.begin(), bytes.end());
  Repair(repaired).run();
  try_image(repaired);
  return 0;
}
