// SPDX-License-Identifier: Apache-2.0
// become_user(): a process that was started by root goes on as somebody else.
#pragma once

#include <sys/types.h>

#include <span>

#include "stasis/result.h"

namespace stasis::kernel {

// All ids of this process (of all its threads: libc's set*id) become these, for good. Of its capabilities only those
// stay that let a process be made with a wanted pid, and be given its groups and bounds: CAP_CHECKPOINT_RESTORE,
// CAP_SETGID and CAP_SETPCAP, where it has them. None of them opens a file, a port or a peer. Source: capabilities(7).
Result<void> become_user(uid_t uid, gid_t gid, std::span<const gid_t> groups);

}  // namespace stasis::kernel
