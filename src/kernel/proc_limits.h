// SPDX-License-Identifier: Apache-2.0
// /proc/PID/limits (man 5 proc, fs/proc/base.c).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "stasis/result.h"

namespace stasis::kernel {

inline constexpr std::size_t kLimitCount = 16;
inline constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};  // RLIM_INFINITY

struct Limit {
  std::uint64_t soft = kUnlimited;
  std::uint64_t hard = kUnlimited;
  bool operator==(const Limit&) const = default;
};

// Indexed by RLIMIT_*. All of them must be there; unknown lines are skipped.
using Limits = std::array<Limit, kLimitCount>;
Result<Limits> parse_limits(std::string_view text);

// "Max open files" of RLIMIT_NOFILE, ... for messages. REQUIRES: resource < kLimitCount.
std::string_view limit_name(std::size_t resource);

}  // namespace stasis::kernel
