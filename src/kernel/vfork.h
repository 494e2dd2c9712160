// SPDX-License-Identifier: Apache-2.0
// Threads that sleep in vfork(2).
#pragma once

#include "base/ids.h"

namespace stasis::kernel {

// Does the thread wait for its vfork child to run another program or to end? It can't be interrupted then, not even by
// a tracer. By /proc/TID/stat and /proc/TID/syscall (man 5 proc): needs ptrace rights, false without.
bool waits_for_vfork(HostPid tid);

}  // namespace stasis::kernel
