// SPDX-License-Identifier: Apache-2.0
// The bytes between the records: what stands where in an image. doc/image-format.md says the same in prose.
//
//   preamble   16 bytes: magic, u32 version, u32 check
//   record*    24-byte header {u32 type, u32 flags = 0, u64 length, u64 check}, then `length` bytes of fields
//   chunk      a ChunkRecord whose last field pads it to end at a multiple of 4096; the payload; a ChunkEndRecord
//   tail       16 bytes: u64 offset of the trailer record, magic
//
// A record's check is XXH3-64 of its payload, seeded with XXH3-64 of the first 16 header bytes: every byte between
// preamble and tail is thus under a checksum of its own, page payloads under their chunk's 128-bit hash. The structure
// hash in EndOfStructureRecord (XXH3-128 of everything before that record) also fixes number and order of records.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "stasis/image.h"
#include "stasis/image_schema.h"

namespace stasis {

inline constexpr std::uint32_t kImageVersion = 1;
inline constexpr std::size_t kPreambleSize = 16;
inline constexpr std::size_t kRecordHeaderSize = 24;
inline constexpr std::size_t kTailSize = 16;
// A record is held in memory whole.
inline constexpr std::uint64_t kMaxRecordBytes = std::uint64_t{256} << 20;
// The index of a file may be larger than a record: 16 bytes per run.
inline constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{4} << 30;

// Header of a shared object, right before its own record.
struct ObjectRecord {
  static constexpr RecordType kType = RecordType::kObject;
  static constexpr std::string_view kName = "object";
  ObjRef ref;
  ObjType type = 0;
  static constexpr auto fields() {
    return std::tuple{field<1>("ref", &ObjectRecord::ref), field<2>("type", &ObjectRecord::type)};
  }
};

// Closes the structure section.
struct EndOfStructureRecord {
  static constexpr RecordType kType = RecordType::kEndOfStructure;
  static constexpr std::string_view kName = "end_of_structure";
  std::uint64_t records = 0;  // before this one
  ImageHash hash{};           // of every byte before this record
  static constexpr auto fields() {
    return std::tuple{field<1>("records", &EndOfStructureRecord::records),
                      field<2>("hash", &EndOfStructureRecord::hash)};
  }
};

// Stands right before a chunk's payload.
struct ChunkRecord {
  static constexpr RecordType kType = RecordType::kChunk;
  static constexpr std::string_view kName = "chunk";
  ObjRef object;
  Codec codec = Codec::kNone;
  std::uint64_t raw_size = 0;
  std::uint64_t stored_size = 0;
  std::vector<PageRun> runs;
  std::optional<ObjRef> source;    // Codec::kParent: the object of the parent image; nothing is stored
  std::vector<std::byte> padding;  // zeros, so that the payload starts at a multiple of 4096
  static constexpr auto fields() {
    return std::tuple{
        field<1>("object", &ChunkRecord::object),       field<2>("codec", &ChunkRecord::codec),
        field<3>("raw_size", &ChunkRecord::raw_size),   field<4>("stored_size", &ChunkRecord::stored_size),
        field<5>("runs", &ChunkRecord::runs),           field<6>("source", &ChunkRecord::source),
        field<0xffff>("padding", &ChunkRecord::padding)};
  }
};

// Stands right behind a chunk's payload.
struct ChunkEndRecord {
  static constexpr RecordType kType = RecordType::kChunkEnd;
  static constexpr std::string_view kName = "chunk_end";
  ImageHash hash{};
  static constexpr auto fields() { return std::tuple{field<1>("hash", &ChunkEndRecord::hash)}; }
};

// Bytes of a ChunkEndRecord with its header.
inline constexpr std::uint64_t kChunkEndSize = kRecordHeaderSize + 6 + sizeof(ImageHash);

// All chunks in file order.
struct IndexRecord {
  static constexpr RecordType kType = RecordType::kIndex;
  static constexpr std::string_view kName = "index";
  std::vector<ChunkInfo> chunks;
  static constexpr auto fields() { return std::tuple{field<1>("chunks", &IndexRecord::chunks, MaxLength{1u << 24})}; }
};

// The last record.
struct TrailerRecord {
  static constexpr RecordType kType = RecordType::kTrailer;
  static constexpr std::string_view kName = "trailer";
  std::uint64_t structure_size = 0;  // bytes up to and with EndOfStructureRecord
  std::uint64_t index_offset = 0;
  std::uint64_t total_size = 0;  // of the file
  ImageHash structure_hash{};    // as in EndOfStructureRecord
  ImageHash image_hash{};        // XXH3-128 of structure_hash and the index record's payload: names this image
  static constexpr auto fields() {
    return std::tuple{field<1>("structure_size", &TrailerRecord::structure_size),
                      field<2>("index_offset", &TrailerRecord::index_offset, Show::kHex),
                      field<3>("total_size", &TrailerRecord::total_size),
                      field<4>("structure_hash", &TrailerRecord::structure_hash),
                      field<5>("image_hash", &TrailerRecord::image_hash)};
  }
};

// Ends a stream whose checkpoint failed; may stand where any record may.
struct ErrorRecord {
  static constexpr RecordType kType = RecordType::kError;
  static constexpr std::string_view kName = "error";
  std::uint16_t code = 0;  // Errc
  std::string message;
  static constexpr auto fields() {
    return std::tuple{field<1>("code", &ErrorRecord::code), field<2>("message", &ErrorRecord::message)};
  }
};

// The records above and EnvironmentRecord: known to every reader.
RecordRegistry framing_records();

// ---- preamble, record headers, tail ---------------------------------------------------------------------------------

struct RecordHeader {
  RecordType type{};
  std::uint64_t length = 0;
  std::uint64_t check = 0;
};

std::array<std::byte, kPreambleSize> make_preamble(std::uint32_t version = kImageVersion);
// kBadImage if this is no image at all, kImageVersion if it is one of another version.
// Of the first bytes of a file, however few: may it be an image?
Result<void> check_magic(std::span<const std::byte> beginning);
Result<void> check_preamble(std::span<const std::byte, kPreambleSize> bytes);

std::uint64_t record_check(RecordType type, std::span<const std::byte> payload);
// Appends header and payload.
void append_record(std::vector<std::byte>& out, RecordType type, std::span<const std::byte> payload);
template <SchemaRecord T>
Result<void> append_record(std::vector<std::byte>& out, const T& record) {
  std::vector<std::byte> payload;
  STASIS_TRY(encode(record, payload));
  append_record(out, T::kType, payload);
  return {};
}
// Header fields; kBadImage for flags that version 1 does not have. The check is not verified here.
Result<RecordHeader> parse_record_header(std::span<const std::byte, kRecordHeaderSize> bytes);
// kImageChecksum if header and payload do not belong together. `offset` is for the message.
Result<void> verify_record(const RecordHeader& header, std::span<const std::byte> payload, std::uint64_t offset);

std::array<std::byte, kTailSize> make_tail(std::uint64_t trailer_offset);
// The trailer's offset; kImageTruncated if these are not a tail.
Result<std::uint64_t> parse_tail(std::span<const std::byte, kTailSize> bytes);

// Encoded ChunkRecord with its padding, to stand at `record_offset`.
Result<std::vector<std::byte>> make_chunk_record(ChunkRecord record, std::uint64_t record_offset);
// A power of two from 4 KiB to 1 MiB.
Result<void> check_page_size(std::uint64_t page_size);
// Runs whole pages, ascending, without overlap or wrap-around, together raw_size <= kMaxChunkBytes; sizes and codec
// fit.
Result<void> check_chunk(const ChunkRecord& record, std::uint64_t page_size);

ImageHash image_hash_of(const ImageHash& structure_hash, std::span<const std::byte> index_payload);

}  // namespace stasis
