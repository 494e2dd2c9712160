// SPDX-License-Identifier: Apache-2.0
#include "kernel/robust_list.h"

#include <fmt/core.h>

#include <cerrno>

#include "kernel/raw.h"

namespace stasis::kernel {

Result<RobustList> get_robust_list(HostPid tid) {
  RobustList list;
  if (raw("get_robust_list", SYS_get_robust_list, tid.value(), &list.head, &list.length) != 0) {
    return Error::from_errno(errno, fmt::format("robust list of thread {}", tid.value()));
  }
  return list;
}

}  // namespace stasis::kernel
