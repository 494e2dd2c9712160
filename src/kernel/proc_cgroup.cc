// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_cgroup.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {

Result<std::vector<CgroupMembership>> parse_cgroup(std::string_view text) {
  std::vector<CgroupMembership> list;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    std::string_view rest = line, hierarchy, controllers;
    CgroupMembership& member = list.emplace_back();
    if (!text::take_until(rest, ':', hierarchy) || !text::take_until(rest, ':', controllers) ||
        !text::number(hierarchy, member.hierarchy) || !rest.starts_with('/')) {
      return text::malformed("cgroup", line);
    }
    member.controllers = controllers;
    member.path = text::unescape(rest);
  }
  return list;
}

}  // namespace stasis::kernel
