// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace stasis::log {
namespace {

// Read once: the environment does not change under us.
const std::string& setting() {
  static const std::string value = [] {
    const char* text = std::getenv("STASIS_LOG");
    return std::string(text ? text : "");
  }();
  return value;
}

Level level_of(std::string_view name) {
  if (name == "debug") return Level::kDebug;
  if (name == "info") return Level::kInfo;
  return Level::kOff;
}

}  // namespace

bool enabled(std::string_view module, Level level) noexcept {
  std::string_view rest = setting();
  while (!rest.empty()) {
    const auto comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    const auto colon = item.find(':');
    if (colon == std::string_view::npos) {
      if (level_of(item) <= level) return true;
    } else if (item.substr(0, colon) == module && level_of(item.substr(colon + 1)) <= level) {
      return true;
    }
  }
  return false;
}

void write(std::string_view module, std::string_view text) noexcept {
  try {
    std::string line = "stasis[";
    line.append(module).append("]: ").append(text).append("\n");
    const ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
    (void)ignored;
  } catch (...) {  // out of memory: a log line is not worth more
  }
}

}  // namespace stasis::log
