// SPDX-License-Identifier: Apache-2.0
// KeepGoing: how whoever waits for long is told to stop.
#pragma once

#include <chrono>
#include <functional>

#include "stasis/result.h"

namespace stasis {

// Asked between the chunks of an image and, while a stream gives or takes nothing, a few times a second; `stalled` is
// for how long it has not (0: it has). An error ends the operation with that error. Empty: never asked. Called by
// whichever thread works or waits, by several at once: what it looks at must be safe for that.
using KeepGoing = std::function<Result<void>(std::chrono::nanoseconds stalled)>;

}  // namespace stasis
