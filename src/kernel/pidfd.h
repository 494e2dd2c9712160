// SPDX-License-Identifier: Apache-2.0
// pidfd_open(2), pidfd_getfd(2), pidfd_send_signal(2).
#pragma once

#include "base/ids.h"
#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis::kernel {

// REQUIRES: the leader of a thread group. Gone: kVanished. Linux 5.3.
Result<UniqueFd> pidfd_open(HostPid pid);
// Of any thread. A kernel that has none: kKernelFeature. Linux 6.9.
Result<UniqueFd> pidfd_open_thread(HostPid tid);
// A duplicate (close-on-exec) of descriptor `fd` of the process. Not open there: kNotFound; process gone: kVanished;
// no ptrace rights: kNotPermitted; no descriptor free here: kSystem with help. Linux 5.6.
Result<UniqueFd> pidfd_getfd(int pidfd, int fd);
// Which process a pidfd of ours means, as our /proc has it; 0: none any more, or none that is visible there.
HostPid pid_of_pidfd(int pidfd);
// Gone: kVanished. Signal 0 only asks.
Result<void> pidfd_send_signal(int pidfd, int signal);

}  // namespace stasis::kernel
