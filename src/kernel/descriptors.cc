// SPDX-License-Identifier: Apache-2.0
#include "kernel/descriptors.h"

#include <sys/mman.h>

#include <cerrno>

#include "kernel/raw.h"

namespace stasis::kernel {
Result<UniqueFd> memfd_create(const char* name, unsigned flags) {
  flags |= MFD_CLOEXEC;
  UniqueFd fd(static_cast<int>(raw("memfd_create", SYS_memfd_create, name, flags)));
  if (!fd && errno == EINVAL && (flags & (kMfdNoExecSeal | kMfdExec))) {
    fd.reset(static_cast<int>(raw("memfd_create", SYS_memfd_create, name, flags & ~(kMfdNoExecSeal | kMfdExec))));
  }
  if (!fd) return Error::from_errno(errno, "memfd_create");
  return fd;
}

Result<void> close_range(unsigned first, unsigned last) {
  if (raw("close_range", SYS_close_range, first, last, 0u) != 0) return Error::from_errno(errno, "close_range");
  return {};
}

}  // namespace stasis::kernel
