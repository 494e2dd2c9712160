// SPDX-License-Identifier: Apache-2.0
// The small tools of the /proc parsers: lines, words, numbers. Nothing here allocates but malformed() and unescape().
#pragma once

#include <charconv>
#include <concepts>
#include <source_location>
#include <string>
#include <string_view>

#include "stasis/result.h"

namespace stasis::kernel::text {

// Takes the next line off `rest`, without its newline. At the end: an empty line.
std::string_view take_line(std::string_view& rest);
// Takes the next word off `rest`; words are separated by blanks and tabs. At the end: an empty word.
std::string_view take_word(std::string_view& rest);
// Takes everything up to `separator` off `rest`, and the separator. False (and nothing taken) when it is not there.
bool take_until(std::string_view& rest, char separator, std::string_view& taken);
std::string_view trim(std::string_view text);

// The whole of `text` is a number that fits; no sign for unsigned types, no blanks, no "0x".
template <std::integral Number>
bool number(std::string_view text, Number& value, int base = 10) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value, base);
  return error == std::errc{} && at == end && !text.empty();
}

// Splits "Key:   value" and trims the value. False without a colon.
bool key_value(std::string_view line, std::string_view& key, std::string_view& value);

// Replaces the kernel's \ooo (three octal digits, as mangle_path() in fs/seq_file.c writes them) by the byte.
std::string unescape(std::string_view text);

// The kernel's text was not understood: names the file and shows the line, shortened and made printable.
Error malformed(std::string_view file, std::string_view line,
                std::source_location where = std::source_location::current());

}  // namespace stasis::kernel::text
