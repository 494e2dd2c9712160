// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_fdinfo.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

struct Seen {
  bool pos = false;
  bool flags = false;
  bool mnt_id = false;
};

// False: malformed.
bool parse_line(std::string_view line, FdInfo& info, Seen& seen) {
  std::string_view key, value;
  const bool keyed = text::key_value(line, key, value);
  // Only the head is common; a kind's own lines may reuse a key ("pos:" of an epoll target, "ino:" of inotify).
  if (keyed && key == "pos" && !seen.pos) return seen.pos = text::number(value, info.pos);
  if (keyed && key == "flags" && !seen.flags) return seen.flags = text::number(value, info.flags, 8);
  if (keyed && key == "mnt_id" && !seen.mnt_id) return seen.mnt_id = text::number(value, info.mnt_id);
  if (keyed && key == "ino" && !info.ino) return text::number(value, info.ino.emplace());
  if (keyed && key == "lock") {
    const auto lock = parse_lock(value);
    if (!lock) return false;
    info.locks.push_back(*lock);
    return true;
  }
  info.rest.append(line).push_back('\n');
  return true;
}

}  // namespace

Result<FdInfo> parse_fdinfo(std::string_view text) {
  FdInfo info;
  Seen seen;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    if (!parse_line(line, info, seen)) return text::malformed("fdinfo", line);
  }
  if (!seen.pos || !seen.flags || !seen.mnt_id) return text::malformed("fdinfo", "pos, flags or mnt_id is missing");
  return info;
}

std::optional<std::string_view> fdinfo_value(std::string_view rest, std::string_view key) {
  while (!rest.empty()) {
    std::string_view found, value;
    if (text::key_value(text::take_line(rest), found, value) && found == key) return value;
  }
  return std::nullopt;
}

}  // namespace stasis::kernel
