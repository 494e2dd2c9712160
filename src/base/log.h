// SPDX-License-Identifier: Apache-2.0
// Log lines on stderr, named by module. Level from STASIS_LOG ("debug", or "tracee:debug,image:info"); default:
// nothing.
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace stasis::log {

enum class Level { kDebug = 0, kInfo = 1, kOff = 2 };

// Is a line of this level in this module printed? Thread-safe.
bool enabled(std::string_view module, Level level) noexcept;
// Prints one line: "stasis[module]: text". Never fails, never throws.
void write(std::string_view module, std::string_view text) noexcept;

template <class... Args>
void debug(std::string_view module, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(module, Level::kDebug)) write(module, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void info(std::string_view module, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(module, Level::kInfo)) write(module, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace stasis::log
