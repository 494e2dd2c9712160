// SPDX-License-Identifier: Apache-2.0
// The areas of a process that runs. The kernel lists them some at a time, and the process may join or move areas in
// between: then one that was listed may be listed again as a part of another.
#pragma once

#include "kernel/proc_maps.h"

namespace stasis::kernel {

// Parses what `read` yields (a Result<std::string>), and has it read again as long as areas overlap. kBusy: they always
// did.
template <class Parse, class Read>
Result<std::vector<Vma>> parse_areas_in_motion(Parse parse, Read read) {
  constexpr int kTries = 100;
  for (int i = 1;; ++i) {
    const std::string text = STASIS_TRY(read());
    auto vmas = parse(text);
    if (vmas || vmas.error().code() != Errc::kBusy || i == kTries) return vmas;
  }
}

}  // namespace stasis::kernel
