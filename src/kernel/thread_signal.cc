// SPDX-License-Identifier: Apache-2.0
#include "kernel/thread_signal.h"

#include "kernel/raw.h"

namespace stasis::kernel {

Result<void> send_thread_signal(HostPid pid, HostPid tid, int signal) {
  if (raw("tgkill", SYS_tgkill, pid.value(), tid.value(), signal) == 0) return {};
  return Error::from_errno(errno, "tgkill");
}

}  // namespace stasis::kernel
