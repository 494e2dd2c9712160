// SPDX-License-Identifier: Apache-2.0
#include "image/format.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "stasis/image_environment.h"

namespace stasis {
namespace {

// First byte not ASCII, then a line end: a transfer in text mode is noticed.
constexpr std::array<char, 8> kMagic = {'\x89', 'S', 'T', 'A', 'S', 'I', 'S', '\n'};
constexpr std::array<char, 8> kTailMagic = {'\x89', 'S', 'I', 'S', 'A', 'T', 'S', '\n'};

template <class T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}
template <class T>
T get(const std::byte* at) {
  T value{};
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::array<std::byte, kRecordHeaderSize> make_record_header(RecordType type, std::span<const std::byte> payload) {
  std::array<std::byte, kRecordHeaderSize> header{};
  put(header.data(), static_cast<std::uint32_t>(type));
  put(header.data() + 8, static_cast<std::uint64_t>(payload.size()));
  put(header.data() + 16, record_check(type, payload));
  return header;
}

}  // namespace

std::string to_string(RecordType type) {
  const std::uint32_t number = static_cast<std::uint32_t>(type) & ~kIgnorableRecord;
  return fmt::format("type {}{}", number, is_ignorable(type) ? " (ignorable)" : "");
}

RecordRegistry framing_records() {
  static constexpr auto kRecords = record_registry<EnvironmentRecord, ObjectRecord, EndOfStructureRecord, ChunkRecord,
                                                   ChunkEndRecord, IndexRecord, TrailerRecord, ErrorRecord>();
  return kRecords;
}

std::array<std::byte, kPreambleSize> make_preamble(std::uint32_t version) {
  std::array<std::byte, kPreambleSize> bytes{};
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  put(bytes.data() + 8, version);
  put(bytes.data() + 12, static_cast<std::uint32_t>(XXH3_64bits(bytes.data(), 12)));
  return bytes;
}

Result<void> check_magic(std::span<const std::byte> beginning) {
  if (std::memcmp(beginning.data(), kMagic.data(), std::min(beginning.size(), kMagic.size())) == 0) return {};
  return Error(Errc::kBadImage, "this is not a Stasis image");
}

Result<void> check_preamble(std::span<const std::byte, kPreambleSize> bytes) {
  STASIS_TRY(check_magic(bytes));
  if (get<std::uint32_t>(bytes.data() + 12) != static_cast<std::uint32_t>(XXH3_64bits(bytes.data(), 12))) {
    return Error(Errc::kImageChecksum, "the image's first bytes are damaged");
  }
  const auto version = get<std::uint32_t>(bytes.data() + 8);
  if (version != kImageVersion) {
    return Error(Errc::kImageVersion,
                 fmt::format("the image has format version {}, this program reads version {}", version, kImageVersion));
  }
  return {};
}

std::uint64_t record_check(RecordType type, std::span<const std::byte> payload) {
  std::array<std::byte, 16> head{};
  put(head.data(), static_cast<std::uint32_t>(type));
  put(head.data() + 8, static_cast<std::uint64_t>(payload.size()));
  return XXH3_64bits_withSeed(payload.data(), payload.size(), XXH3_64bits(head.data(), head.size()));
}

void append_record(std::vector<std::byte>& out, RecordType type, std::span<const std::byte> payload) {
  const auto header = make_record_header(type, payload);
  out.insert(out.end(), header.begin(), header.end());
  out.insert(out.end(), payload.begin(), payload.end());
}

Result<RecordHeader> parse_record_header(std::span<const std::byte, kRecordHeaderSize> bytes) {
  if (get<std::uint32_t>(bytes.data() + 4) != 0) return Error(Errc::kBadImage, "a record header has unknown flags");
  return RecordHeader{RecordType{get<std::uint32_t>(bytes.data())}, get<std::uint64_t>(bytes.data() + 8),
                      get<std::uint64_t>(bytes.data() + 16)};
}

Result<void> verify_record(const RecordHeader& header, std::span<const std::byte> payload, std::uint64_t offset) {
  if (payload.size() == header.length && record_check(header.type, payload) == header.check) return {};
  return Error(Errc::kImageChecksum,
               fmt::format("the record of {} at offset {} is damaged", to_string(header.type), offset));
}

std::array<std::byte, kTailSize> make_tail(std::uint64_t trailer_offset) {
  std::array<std::byte, kTailSize> bytes{};
  put(bytes.data(), trailer_offset);
  std::memcpy(bytes.data() + 8, kTailMagic.data(), kTailMagic.size());
  return bytes;
}

Result<std::uint64_t> parse_tail(std::span<const std::byte, kTailSize> bytes) {
  if (std::memcmp(bytes.data() + 8, kTailMagic.data(), kTailMagic.size()) != 0) {
    return Error(Errc::kImageTruncated, "the image has no end mark");
  }
  return get<std::uint64_t>(bytes.data());
}

Result<std::vector<std::byte>> make_chunk_record(ChunkRecord record, std::uint64_t record_offset) {
  std::vector<std::byte> payload;
  record.padding.clear();
  STASIS_TRY(encode(record, payload));
  const std::uint64_t end = record_offset + kRecordHeaderSize + payload.size();
  record.padding.resize((kPayloadAlignment - end % kPayloadAlignment) % kPayloadAlignment);
  payload.clear();
  STASIS_TRY(encode(record, payload));
  std::vector<std::byte> out;
  append_record(out, ChunkRecord::kType, payload);
  return out;
}

Result<void> check_page_size(std::uint64_t page_size) {
  if (std::has_single_bit(page_size) && page_size >= 4096 && page_size <= (std::uint64_t{1} << 20)) return {};
  return Error(Errc::kBadImage, fmt::format("a page size of {} bytes", page_size));
}

Result<void> check_chunk(const ChunkRecord& record, std::uint64_t page_size) {
  auto bad = [](std::string_view why) { return Error(Errc::kBadImage, fmt::format("chunk: {}", why)); };
  // Without runs: room that nothing was put into in the end.
  if (record.runs.empty()) {
    const bool empty = record.codec == Codec::kNone && record.raw_size == 0 && !record.source;
    return empty && record.stored_size <= kMaxChunkBytes ? Result<void>() : bad("something in nothing");
  }
  std::uint64_t total = 0;
  std::uint64_t next = 0;
  for (const PageRun& run : record.runs) {
    if (run.length == 0 || run.start % page_size != 0 || run.length % page_size != 0)
      return bad("a run of no whole pages");
    if (run.start < next) return bad("runs out of order");
    if (run.length > kMaxChunkBytes || __builtin_add_overflow(run.start, run.length, &next))
      return bad("a run too long");
    total += run.length;
    if (total > kMaxChunkBytes) return bad("larger than allowed");
  }
  if (total != record.raw_size) return bad("size and runs differ");
  const bool inherited = record.codec == Codec::kParent;
  if (inherited != record.source.has_value()) return bad("a source without a parent, or a parent without a source");
  if (inherited) return record.stored_size == 0 ? Result<void>() : bad("stored pages that are in the parent");
  if (record.codec == Codec::kNone ? record.stored_size != total
                                   : record.stored_size == 0 || record.stored_size >= total) {
    return bad("stored size out of range");
  }
  return {};
}

ImageHash image_hash_of(const ImageHash& structure_hash, std::span<const std::byte> index_payload) {
  const ImageHash index_hash = hash_bytes(index_payload);
  std::array<std::uint8_t, 32> both{};
  std::memcpy(both.data(), structure_hash.data(), structure_hash.size());
  std::memcpy(both.data() + structure_hash.size(), index_hash.data(), index_hash.size());
  return hash_bytes(std::as_bytes(std::span(both)));
}

}  // namespace stasis
