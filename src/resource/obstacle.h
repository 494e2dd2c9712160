// SPDX-License-Identifier: Apache-2.0
// Obstacle: one thing that keeps a process from being saved. `stasis check` lists them, a checkpoint refuses with them.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis {

struct Obstacle {
  Errc code = Errc::kUnsupportedObject;
  HostPid pid;         // whose
  int fd = -1;         // -1: not a descriptor
  std::string object;  // "socket:[123]", "/path", "thread 12"
  std::string why;
  std::string help;  // what the user can do; may be empty

  std::string to_string() const {
    const std::string where =
        fd >= 0 ? fmt::format("pid {} fd {}", pid.value(), fd) : fmt::format("pid {}", pid.value());
    return fmt::format("{} ({}): {}", where, object, why);
  }
  Error to_error() const { return Error(code, to_string()).with_help(help); }
};

using Obstacles = std::vector<Obstacle>;

// The first of them as an error that says how many more there are.
inline Error to_error(const Obstacles& obstacles) {
  Error error = obstacles.front().to_error();
  if (obstacles.size() == 1) return error;
  const std::string more =
      fmt::format("{} more; 'stasis check {}' lists all", obstacles.size() - 1, obstacles.front().pid.value());
  return std::move(error).with_help(error.help().empty() ? more : error.help() + "; " + more);
}

}  // namespace stasis
