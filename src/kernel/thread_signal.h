// SPDX-License-Identifier: Apache-2.0
// tgkill(2): a signal to one thread.
#pragma once

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

// Gone: kVanished; somebody else's: kNotPermitted.
Result<void> send_thread_signal(HostPid pid, HostPid tid, int signal);

}  // namespace stasis::kernel
