// SPDX-License-Identifier: Apache-2.0
#include "engine/fault_point.h"

#include <fmt/core.h>

#include <atomic>
#include <cstdlib>

namespace stasis {
namespace {

long wanted() {
  static const long number = [] {
    const char* const text = std::getenv("STASIS_FAULT");
    return text ? std::strtol(text, nullptr, 10) : 0;
  }();
  return number;
}

}  // namespace

Result<void> fault_point(std::string_view stage) {
  static std::atomic<long> passed{0};
  if (wanted() == 0 || ++passed != wanted()) return {};
  fmt::print(stderr, "fault point {}: {}\n", wanted(), stage);
  return Error(Errc::kSystem, fmt::format("forced failure at '{}'", stage));
}

}  // namespace stasis
