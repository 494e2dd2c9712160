// SPDX-License-Identifier: Apache-2.0
#include "image/structure.h"

#include <fmt/format.h>

#include <algorithm>

namespace stasis {
namespace {

template <std::size_t N>
std::span<const std::byte, N> fixed(std::span<const std::byte> bytes, std::size_t offset) {
  return bytes.subspan(offset).template first<N>();
}

Error malformed(std::string_view why) { return Error(Errc::kBadImage, "structure section: " + std::string(why)); }

bool is_known(RecordType type, RecordRegistry registry) {
  return std::ranges::find(registry, type, &RecordInfo::type) != registry.end();
}

// Framing records that may stand among structure records (the environment: see check_order).
bool may_stand_inside(RecordType type) {
  const std::uint32_t number = static_cast<std::uint32_t>(type) & ~kIgnorableRecord;
  return number >= 16 || type == RecordType::kObject || type == RecordType::kEnvironment || is_ignorable(type);
}

}  // namespace

Error aborted(std::span<const std::byte> payload) {
  const auto record = decode<ErrorRecord>(payload, ErrorRecord::kName);
  if (!record) return Error(record.error());
  return Error(Errc::kImageAborted, "the checkpoint that wrote this image failed: " + record->message);
}

Result<StreamRecord> read_stream_record(ImageSource& source, std::uint64_t offset, std::uint64_t max_length) {
  std::array<std::byte, kRecordHeaderSize> bytes{};
  STASIS_TRY(read_exactly(source, bytes));
  const RecordHeader header = STASIS_TRY(parse_record_header(bytes));
  if (header.length > max_length) return Error(Errc::kBadImage, fmt::format("a record of {} bytes", header.length));
  StreamRecord record{header.type, {}};
  STASIS_TRY(append_from(source, header.length, record.payload));
  STASIS_TRY(verify_record(header, record.payload, offset));
  if (record.type == RecordType::kError) return aborted(record.payload);
  return record;
}

Result<StreamRecord> read_file_record(const ImageSource& source, std::uint64_t offset, std::uint64_t end) {
  if (offset > end || end - offset < kRecordHeaderSize) return Error(Errc::kBadImage, "a record without room");
  std::array<std::byte, kRecordHeaderSize> bytes{};
  STASIS_TRY(read_exactly_at(source, bytes, offset));
  const RecordHeader header = STASIS_TRY(parse_record_header(bytes));
  if (header.length != end - offset - kRecordHeaderSize) {
    return Error(Errc::kBadImage, fmt::format("the record at offset {} does not fill its room", offset));
  }
  StreamRecord record{header.type, STASIS_TRY(read_range(source, offset + kRecordHeaderSize, header.length))};
  STASIS_TRY(verify_record(header, record.payload, offset));
  return record;
}

Result<Structure> Structure::parse(std::vector<std::byte> bytes, const ReaderOptions& options) {
  Structure structure;
  structure.bytes_ = std::move(bytes);
  const std::span<const std::byte> all = structure.bytes_;
  if (all.size() < kPreambleSize) return Error(Errc::kImageTruncated, "the image ends too early");
  STASIS_TRY(check_preamble(fixed<kPreambleSize>(all, 0)));
  std::size_t at = kPreambleSize;
  for (;;) {
    if (all.size() - at < kRecordHeaderSize) return malformed("a record header exceeds it");
    const RecordHeader header = STASIS_TRY(parse_record_header(fixed<kRecordHeaderSize>(all, at)));
    const std::size_t start = at + kRecordHeaderSize;
    if (header.length > all.size() - start) return malformed("a record exceeds it");
    const auto length = static_cast<std::size_t>(header.length);
    const auto payload = all.subspan(start, length);
    STASIS_TRY(verify_record(header, payload, at));
    if (header.type == RecordType::kEndOfStructure) {
      const auto end = STASIS_TRY(decode<EndOfStructureRecord>(payload, EndOfStructureRecord::kName));
      if (start + length != all.size()) return malformed("bytes behind its end");
      if (end.records != structure.records_.size()) return malformed("records are missing");
      structure.hash_ = hash_bytes(all.first(at));
      if (structure.hash_ != end.hash) return Error(Errc::kImageChecksum, "the structure section is damaged");
      break;
    }
    if (header.type == RecordType::kError) return aborted(payload);
    structure.records_.push_back({header.type, start, length});
    at = start + length;
  }
  STASIS_TRY(structure.check_order(options));
  structure.environment_ =
      STASIS_TRY(decode<EnvironmentRecord>(structure.payload(structure.records_.front()), EnvironmentRecord::kName));
  STASIS_TRY(check_page_size(structure.environment_.page_size));
  return structure;
}

Result<void> Structure::check_order(const ReaderOptions& options) const {
  if (records_.empty() || records_.front().type != RecordType::kEnvironment) {
    return malformed("the environment does not come first");
  }
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const RecordType type = records_[i].type;
    if (!may_stand_inside(type) || (i > 0 && type == RecordType::kEnvironment)) {
      return malformed(fmt::format("a record of {} in a wrong place", to_string(type)));
    }
    if (!options.known.empty() && !is_ignorable(type) && !is_known(type, options.known) &&
        !is_known(type, framing_records())) {
      return Error(Errc::kImageUnknownRecord,
                   fmt::format("the image has a record of {}, which this program does not know", to_string(type)))
          .with_help("use the version of Stasis that wrote the image");
    }
  }
  return {};
}

Result<Structure> Structure::from_stream(ImageSource& source, const ReaderOptions& options) {
  std::vector<std::byte> bytes;
  STASIS_TRY(append_from(source, kPreambleSize, bytes));
  STASIS_TRY(check_preamble(fixed<kPreambleSize>(bytes, 0)));
  for (;;) {
    const std::size_t at = bytes.size();
    STASIS_TRY(append_from(source, kRecordHeaderSize, bytes));
    const RecordHeader header = STASIS_TRY(parse_record_header(fixed<kRecordHeaderSize>(bytes, at)));
    if (header.length > kMaxRecordBytes ||
        header.length >
            options.max_structure_bytes - std::min<std::uint64_t>(options.max_structure_bytes, bytes.size())) {
      return malformed("larger than allowed");
    }
    STASIS_TRY(append_from(source, header.length, bytes));
    STASIS_TRY(verify_record(header, std::span(bytes).subspan(at + kRecordHeaderSize), at));
    if (header.type == RecordType::kEndOfStructure || header.type == RecordType::kError) break;
  }
  return parse(std::move(bytes), options);
}

}  // namespace stasis
