// SPDX-License-Identifier: Apache-2.0
#include "engine/snapshot.h"

namespace stasis {

std::string_view name_of(SnapshotMode mode) {
  switch (mode) {
    case SnapshotMode::kAuto:
      return "auto";
    case SnapshotMode::kCow:
      return "cow";
    case SnapshotMode::kWp:
      return "wp";
    case SnapshotMode::kPrecopy:
      return "precopy";
    case SnapshotMode::kFreeze:
      return "freeze";
  }
  return "";
}

}  // namespace stasis
