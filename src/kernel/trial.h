// SPDX-License-Identifier: Apache-2.0
// try_in_child(): does something with this process's state in a child, to see whether it works.
#pragma once

#include <functional>

#include "stasis/result.h"

namespace stasis::kernel {

// Forks, runs `action` in the child, waits for its end, and returns what the action returned (code, message and help of
// an error; not its errno). The child runs no destructors or atexit handlers of the caller's. The caller should have no
// other threads, or the action must get along with locks that they may have held. A child that dies: kInternal.
Result<void> try_in_child(const std::function<Result<void>()>& action);

}  // namespace stasis::kernel
