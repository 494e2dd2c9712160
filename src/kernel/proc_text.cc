// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_text.h"

namespace stasis::kernel::text {
namespace {

bool blank(char c) { return c == ' ' || c == '\t'; }
bool octal(char c) { return c >= '0' && c <= '7'; }

}  // namespace

std::string_view take_line(std::string_view& rest) {
  const auto end = rest.find('\n');
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return line;
}

std::string_view take_word(std::string_view& rest) {
  std::size_t begin = 0;
  while (begin < rest.size() && blank(rest[begin])) ++begin;
  std::size_t end = begin;
  while (end < rest.size() && !blank(rest[end])) ++end;
  const std::string_view word = rest.substr(begin, end - begin);
  rest.remove_prefix(end);
  return word;
}

bool take_until(std::string_view& rest, char separator, std::string_view& taken) {
  const auto at = rest.find(separator);
  if (at == std::string_view::npos) return false;
  taken = rest.substr(0, at);
  rest.remove_prefix(at + 1);
  return true;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

bool key_value(std::string_view line, std::string_view& key, std::string_view& value) {
  if (!take_until(line, ':', key)) return false;
  key = trim(key);
  value = trim(line);
  return true;
}

std::string unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '\\' && i + 3 < text.size() && text[i + 1] <= '3' && octal(text[i + 1]) &&
                        octal(text[i + 2]) && octal(text[i + 3]);
    if (!escape) {
      out.push_back(text[i]);
      continue;
    }
    out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
    i += 3;
  }
  return out;
}

Error malformed(std::string_view file, std::string_view line, std::source_location where) {
  std::string message = "can't understand /proc/PID/";
  message.append(file).append(": \"");
  for (const char c : line.substr(0, 80)) message.push_back(c >= ' ' && c < 127 ? c : '?');
  message.append(line.size() > 80 ? "...\"" : "\"");
  return Error(Errc::kSystem, std::move(message), where);
}

}  // namespace stasis::kernel::text
