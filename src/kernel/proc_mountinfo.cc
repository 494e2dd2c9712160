// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_mountinfo.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

bool parse_mount(std::string_view line, Mount& mount) {
  if (!text::number(text::take_word(line), mount.id) || !text::number(text::take_word(line), mount.parent_id)) {
    return false;
  }
  std::string_view device = text::take_word(line);
  std::string_view major;
  if (!text::take_until(device, ':', major) || !text::number(major, mount.dev_major) ||
      !text::number(device, mount.dev_minor)) {
    return false;
  }
  mount.root = text::unescape(text::take_word(line));
  mount.mount_point = text::unescape(text::take_word(line));
  mount.options = text::take_word(line);
  for (;;) {
    const std::string_view tag = text::take_word(line);
    if (tag.empty()) return false;  // the separator is missing
    if (tag == "-") break;
    mount.tags.emplace_back(tag);
  }
  // The source may be empty: two blanks follow each other then.
  mount.fs_type = text::take_word(line);
  if (line.starts_with(' ')) line.remove_prefix(1);
  std::string_view source;
  if (!text::take_until(line, ' ', source)) return false;
  mount.source = text::unescape(source);
  mount.super_options = text::trim(line);
  return !mount.root.empty() && !mount.mount_point.empty() && !mount.fs_type.empty();
}

}  // namespace

Result<std::vector<Mount>> parse_mountinfo(std::string_view text) {
  std::vector<Mount> mounts;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    if (!parse_mount(line, mounts.emplace_back())) return text::malformed("mountinfo", line);
  }
  return mounts;
}

}  // namespace stasis::kernel
