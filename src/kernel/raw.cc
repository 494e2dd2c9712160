// SPDX-License-Identifier: Apache-2.0
#include "kernel/raw.h"

#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace stasis::kernel {
namespace {

struct FaultPlan {
  std::string name;      // empty: any call
  std::uint64_t at = 0;  // 0: none
  int error = EIO;
};

template <class Number>
bool parse(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

// "[name:]N[:errno]"; what can't be understood plans nothing.
FaultPlan parse_plan(std::string_view text) {
  FaultPlan plan;
  if (!text.empty() && (text[0] < '0' || text[0] > '9')) {
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) return {};
    plan.name = text.substr(0, colon);
    text.remove_prefix(colon + 1);
  }
  const auto colon = text.find(':');
  if (colon != std::string_view::npos && !parse(text.substr(colon + 1), plan.error)) return {};
  if (!parse(text.substr(0, colon), plan.at)) return {};
  return plan;
}

const FaultPlan& plan() {
  static const FaultPlan value = [] {
    const char* text = std::getenv("STASIS_FAIL_SYSCALL");
    return text ? parse_plan(text) : FaultPlan{};
  }();
  return value;
}

}  // namespace

bool inject_fault(std::string_view name) noexcept {
  const FaultPlan& wanted = plan();
  if (wanted.at == 0) [[likely]]
    return false;
  if (!wanted.name.empty() && wanted.name != name) return false;
  static std::atomic<std::uint64_t> calls{0};
  if (calls.fetch_add(1, std::memory_order_relaxed) + 1 != wanted.at) return false;
  errno = wanted.error;
  return true;
}

}  // namespace stasis::kernel
