// SPDX-License-Identifier: Apache-2.0
// Looks at System V objects in the IPC namespace of another process, which may be one that Stasis made.
#pragma once

#include <functional>
#include <vector>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis {

// Does the process share our IPC namespace?
Result<bool> shares_ipc_namespace(HostPid pid);
// What `ask` yields there; in a child of ours if it is another namespace than our own. At most 1 GiB.
Result<std::vector<std::byte>> in_ipc_namespace(HostPid pid,
                                                const std::function<Result<std::vector<std::byte>>()>& ask);

}  // namespace stasis
