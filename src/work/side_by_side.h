// SPDX-License-Identifier: Apache-2.0
// side_by_side(): many equal pieces of work on all CPUs at once, by a WorkQueue of their own and the calling thread.
// For what any thread may do, such as reading /proc and memory; tracing is for the thread that traces.
#pragma once

#include <cstddef>
#include <functional>

#include "stasis/result.h"

namespace stasis {

struct SideBySide {
  std::size_t count = 0;
  std::size_t worth_a_thread = 8;  // pieces; for fewer a thread costs more than it brings
  std::size_t threads = 0;  // at most; 0: as many as there are CPUs. More are of use where they wait for a medium
};

// At most so many pieces are done at once, if not told else.
std::size_t most_side_by_side();

// Calls function(piece, place) for every piece below `count`; the calls that run at one time have different places, all
// below `threads` or most_side_by_side(). Every call has returned when this does. Error: of the lowest piece that
// failed; those not yet begun are left out then.
Result<void> side_by_side(SideBySide work,
                          const std::function<Result<void>(std::size_t piece, std::size_t place)>& function);

}  // namespace stasis
