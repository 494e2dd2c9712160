// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_children.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {

Result<std::vector<HostPid>> parse_children(std::string_view text) {
  std::vector<HostPid> children;
  std::string_view rest = text;
  for (std::string_view word = text::take_word(rest); !word.empty(); word = text::take_word(rest)) {
    if (word == "\n" && rest.empty()) break;
    std::int32_t pid = 0;
    if (!text::number(word, pid) || pid <= 0) return text::malformed("children", text);
    children.emplace_back(pid);
  }
  return children;
}

}  // namespace stasis::kernel
