// SPDX-License-Identifier: Apache-2.0
#include "kernel/without.h"

#include <cstdlib>
#include <string>

namespace stasis::kernel {

bool names_feature(std::string_view list, std::string_view feature) noexcept {
  while (!list.empty()) {
    const auto comma = list.find(',');
    if (list.substr(0, comma) == feature) return true;
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return false;
}

bool without(std::string_view feature) noexcept {
  static const std::string list = [] {
    const char* text = std::getenv("STASIS_WITHOUT");
    return std::string(text ? text : "");
  }();
  return names_feature(list, feature);
}

}  // namespace stasis::kernel
