// SPDX-License-Identifier: Apache-2.0
#include "engine/snapshot_choice.h"

#include <algorithm>

namespace stasis {

std::vector<SnapshotMode> ways_to_try(const ToBeSaved& saved) {
  using enum SnapshotMode;
  constexpr std::uint64_t kLittle = std::uint64_t{4} << 20, kMore = std::uint64_t{1} << 20;  // and for each process
  if (saved.bytes <= kLittle + kMore * saved.processes) return {kFreeze};
  if (saved.bytes <= kMuchToSave || !saved.may_be_protected) return {kCow, kFreeze};
  return {kWp, kCow, kFreeze};
}

std::uint64_t too_much_written(std::uint64_t bytes, bool protects) {
  constexpr std::uint64_t kLittle = std::uint64_t{8} << 20, kTooMuchForAll = std::uint64_t{128} << 20;
  return protects ? std::max(kLittle, bytes / 100) : kTooMuchForAll;
}

}  // namespace stasis
