// SPDX-License-Identifier: Apache-2.0
#include "kernel/vm_flags.h"

#include <algorithm>
#include <array>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

// Indexed by VmFlag.
constexpr std::array<std::string_view, 40> kNames = {"rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "pf",
                                                     "lo", "io", "sr", "rr", "dc", "de", "ac", "nr", "ht", "sf",
                                                     "ar", "wf", "dd", "bt", "sd", "mm", "hg", "nh", "mg", "um",
                                                     "uw", "mt", "ui", "ss", "sl", "dp", "gu", "lf", "nl", "dw"};
static_assert(kNames.size() == static_cast<std::size_t>(VmFlag::kDenyWrite) + 1);

}  // namespace

std::string VmFlags::to_string() const {
  std::string out;
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (!has(static_cast<VmFlag>(i))) continue;
    if (!out.empty()) out.push_back(' ');
    out.append(kNames[i]);
  }
  return out;
}

ParsedVmFlags parse_vm_flags(std::string_view names) {
  ParsedVmFlags parsed;
  for (std::string_view name = text::take_word(names); !name.empty(); name = text::take_word(names)) {
    const auto known = std::ranges::find(kNames, name);
    if (known == kNames.end()) {
      parsed.unknown.emplace_back(name);
    } else {
      parsed.flags.set(static_cast<VmFlag>(known - kNames.begin()));
    }
  }
  return parsed;
}

}  // namespace stasis::kernel
