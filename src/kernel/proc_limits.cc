// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_limits.h"

#include <sys/resource.h>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

// Indexed by RLIMIT_*; lnames[] of fs/proc/base.c.
constexpr std::array<std::string_view, kLimitCount> kNames = {
    "Max cpu time",       "Max file size",     "Max data size",         "Max stack size",
    "Max core file size", "Max resident set",  "Max processes",         "Max open files",
    "Max locked memory",  "Max address space", "Max file locks",        "Max pending signals",
    "Max msgqueue size",  "Max nice priority", "Max realtime priority", "Max realtime timeout"};
static_assert(RLIMIT_CPU == 0 && RLIMIT_NOFILE == 7 && RLIMIT_AS == 9 && RLIMIT_RTTIME == 15 && RLIM_NLIMITS == 16);

bool value(std::string_view word, std::uint64_t& limit) {
  if (word == "unlimited") {
    limit = kUnlimited;
    return true;
  }
  return text::number(word, limit);
}

}  // namespace

Result<Limits> parse_limits(std::string_view text) {
  Limits limits;
  std::array<bool, kLimitCount> seen{};
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      // The name is followed by blanks, so that no name can be taken for the beginning of a longer one.
      if (!line.starts_with(kNames[i]) || line.size() <= kNames[i].size() || line[kNames[i].size()] != ' ') continue;
      std::string_view rest = line.substr(kNames[i].size());
      if (!value(text::take_word(rest), limits[i].soft) || !value(text::take_word(rest), limits[i].hard)) {
        return text::malformed("limits", line);
      }
      seen[i] = true;
    }
  }
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (!seen[i]) return text::malformed("limits", std::string(kNames[i]) + " is missing");
  }
  return limits;
}

std::string_view limit_name(std::size_t resource) { return kNames[resource]; }

}  // namespace stasis::kernel
