// SPDX-License-Identifier: Apache-2.0
// Text and JSON views of a whole image, made from the schema of its records; what `stasis inspect` prints.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "stasis/image.h"
#include "stasis/image_schema.h"

namespace stasis {

enum class ViewFormat : std::uint8_t { kText, kJson };

struct ViewOptions {
  ViewFormat format = ViewFormat::kText;
  RecordRegistry records;                           // of the layers above; others are shown in hexadecimal
  std::span<const EnumName<ObjType>> object_names;  // for object headers; others are shown by number
};

// Takes the view piece by piece.
using ViewOutput = std::function<void(std::string_view)>;

// Prints every record and chunk; page contents are not printed, but a stream is read (and verified) to its end. Both
// formats are stable: tests may compare them. Text that is not UTF-8 is escaped ("\xff"), in JSON as {"escaped":
// "..."}; bytes are hexadecimal, cut short in text; numbers declared Show::kHex are strings in JSON.
Result<void> view_image(ImageReader& reader, const ViewOptions& options, const ViewOutput& out);

// Opens and prints.
Result<void> inspect_image(const std::string& path, const ViewOptions& options, const ViewOutput& out);

// One record alone, as the views print it.
std::string view_fields_text(const RecordInfo& info, std::span<const std::byte> payload);

// `text` with control characters, backslashes and what is not UTF-8 escaped; what the text view prints.
std::string escape_text(std::string_view text);
bool is_utf8(std::string_view text);

}  // namespace stasis
