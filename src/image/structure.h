// SPDX-License-Identifier: Apache-2.0
// Structure: the structure section of an image in memory, verified as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "image/format.h"
#include "image/source.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {

struct StructureRecord {
  RecordType type;
  std::size_t payload_offset;
  std::size_t payload_length;
};

// Owns the bytes from the preamble to EndOfStructureRecord, and knows where each record stands.
class Structure {
 public:
  // Checks framing, every record's check, record count and hash, that the environment is first (and once), that framing
  // records stand only where they may, and, where options.known is not empty, that every critical record is known.
  static Result<Structure> parse(std::vector<std::byte> bytes, const ReaderOptions& options);
  // Reads up to EndOfStructureRecord, then as parse(). An error record ends it with kImageAborted.
  static Result<Structure> from_stream(ImageSource& source, const ReaderOptions& options);

  const EnvironmentRecord& environment() const { return environment_; }
  const ImageHash& hash() const { return hash_; }
  std::uint64_t size() const { return bytes_.size(); }
  // Without EndOfStructureRecord.
  std::span<const StructureRecord> records() const { return records_; }
  std::span<const std::byte> payload(const StructureRecord& record) const {
    return std::span(bytes_).subspan(record.payload_offset, record.payload_length);
  }

 private:
  Result<void> check_order(const ReaderOptions& options) const;

  std::vector<std::byte> bytes_;
  std::vector<StructureRecord> records_;
  EnvironmentRecord environment_;
  ImageHash hash_{};
};

// kImageAborted with the text of an error record's payload.
Error aborted(std::span<const std::byte> payload);
// Header and verified payload of the next record of a stream that stands at `offset`.
struct StreamRecord {
  RecordType type{};
  std::vector<std::byte> payload;
};
Result<StreamRecord> read_stream_record(ImageSource& source, std::uint64_t offset, std::uint64_t max_length);
// The same from a file, where the record must end at or before `end`; `length` gets its whole size.
Result<StreamRecord> read_file_record(const ImageSource& source, std::uint64_t offset, std::uint64_t end);

}  // namespace stasis
