// SPDX-License-Identifier: Apache-2.0
// /proc/PID/auxv: the auxiliary vector as the kernel keeps it, 64-bit pairs (man 5 proc, man 3 getauxval).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

struct AuxvEntry {
  std::uint64_t type = 0;  // AT_*
  std::uint64_t value = 0;
  bool operator==(const AuxvEntry&) const = default;
};

// All entries up to and including AT_NULL; what follows it (the kernel's unused slots) is dropped. Without AT_NULL, or
// with half an entry: malformed. Empty text (a zombie, a kernel thread) is an empty vector.
Result<std::vector<AuxvEntry>> parse_auxv(std::string_view bytes);

std::optional<std::uint64_t> auxv_value(const std::vector<AuxvEntry>& auxv, std::uint64_t type);

}  // namespace stasis::kernel
