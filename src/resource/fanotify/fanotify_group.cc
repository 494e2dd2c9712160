// SPDX-License-Identifier: Apache-2.0
// What fdinfo tells of a fanotify group.
#include <string_view>

#include "kernel/proc_text.h"
#include "resource/fanotify/fanotify.h"

namespace stasis {
namespace {

bool parse_group(std::string_view line, FanotifyGroup& group) {
  bool flags = false, event_flags = false;
  for (auto word = kernel::text::take_word(line); !word.empty(); word = kernel::text::take_word(line)) {
    std::string_view key;
    if (!kernel::text::take_until(word, ':', key)) return false;
    if (key == "flags") flags = kernel::text::number(word, group.flags, 16);
    if (key == "event-flags") event_flags = kernel::text::number(word, group.event_flags, 16);
  }
  return flags && event_flags;
}

// An object is a file if an inode is told, a mount if its id is, else a file system.
bool parse_mark(std::string_view line, FanotifyMark& mark) {
  bool masked = false, placed = false;
  mark.object = MarkedObject::kFileSystem;
  for (auto word = kernel::text::take_word(line); !word.empty(); word = kernel::text::take_word(line)) {
    std::string_view key;
    std::string_view value = word;
    if (!kernel::text::take_until(value, ':', key) || !parse_watched_file(key, value, mark.file)) return false;
    const auto number = [&](auto& into) { return kernel::text::number(value, into, 16); };
    if (key == "mflags" && !number(mark.flags)) return false;
    if (key == "ignored_mask" && !number(mark.ignored)) return false;
    if (key == "mnt_id" && !number(mark.mount_id)) return false;
    if (key == "ino") mark.object = MarkedObject::kFile;
    if (key == "mnt_id") mark.object = MarkedObject::kMount;
    placed = placed || key == "sdev" || key == "mnt_id";
    masked = masked || key == "mask";
  }
  return masked && placed;
}

}  // namespace

Result<FanotifyGroup> parse_fanotify_group(const kernel::FdInfo& info) {
  FanotifyGroup group;
  bool found = false;
  for (std::string_view rest = info.rest; !rest.empty();) {
    const std::string_view line = kernel::text::take_line(rest);
    if (!line.starts_with("fanotify ")) continue;
    const std::string_view words = line.substr(line.find(' ') + 1);
    bool good = false;
    if (words.starts_with("flags:")) {
      good = found = parse_group(words, group);
    } else {
      good = parse_mark(words, group.marks.emplace_back());
    }
    if (!good) return kernel::text::malformed("fdinfo", line);
  }
  if (!found) return Error(Errc::kSystem, "/proc tells no flags of a fanotify group");
  return group;
}

}  // namespace stasis
