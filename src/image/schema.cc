// SPDX-License-Identifier: Apache-2.0
#include "stasis/image_schema.h"

namespace stasis::schema {

void Encoder::patch_length(std::size_t start) {
  const std::size_t length = out_.size() - start;
  if (length > std::numeric_limits<std::uint32_t>::max()) fail("", "a field of 4 GiB or more");
  const auto wire = static_cast<std::uint32_t>(length);
  std::memcpy(out_.data() + start - sizeof wire, &wire, sizeof wire);
}

void Encoder::fail(std::string_view field, std::string_view why) {
  if (!error_) error_.emplace(Errc::kInvalidArgument, "field " + std::string(field) + ": " + std::string(why));
}

Result<void> Encoder::result() const {
  if (error_) return Error(*error_);
  return {};
}

bool DecodeState::fail(std::string_view field, std::string_view why, Errc code) {
  if (!error_) error_.emplace(code, (field.empty() ? "" : "field " + std::string(field) + ": ") + std::string(why));
  return false;
}

bool DecodeState::enter() {
  if (depth_ >= kMaxNesting) return fail("", "structs are nested too deep", Errc::kImageTooDeep);
  ++depth_;
  return true;
}

Result<void> DecodeState::result(std::string_view record) const {
  if (error_) return Error(*error_).note("record " + std::string(record));
  return {};
}

bool FieldSplitter::next(std::uint16_t& id, std::span<const std::byte>& payload) {
  constexpr std::size_t kHeader = sizeof(std::uint16_t) + sizeof(std::uint32_t);
  if (bytes_.empty()) return false;
  if (bytes_.size() < kHeader) return state_.fail("", "bytes left over behind the last field");
  std::uint32_t length = 0;
  std::memcpy(&id, bytes_.data(), sizeof id);
  std::memcpy(&length, bytes_.data() + sizeof id, sizeof length);
  bytes_ = bytes_.subspan(kHeader);
  if (id <= last_id_) return state_.fail("", "field ids out of order or twice");
  if (length > bytes_.size()) return state_.fail("", "a field exceeds its record");
  last_id_ = id;
  payload = bytes_.first(length);
  bytes_ = bytes_.subspan(length);
  return true;
}

bool take_element(std::span<const std::byte>& bytes, std::span<const std::byte>& payload) {
  std::uint32_t length = 0;
  if (bytes.size() < sizeof length) return false;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > bytes.size() - sizeof length) return false;
  payload = bytes.subspan(sizeof length, length);
  bytes = bytes.subspan(sizeof length + length);
  return true;
}

std::string number_type_name(std::size_t size, std::string_view prefix) {
  return std::string(prefix) + std::to_string(size * 8);
}

}  // namespace stasis::schema
