// SPDX-License-Identifier: Apache-2.0
#include "kernel/descriptor_limit.h"

#include <fcntl.h>

#include <algorithm>

#include "base/unique_fd.h"

namespace stasis::kernel {
namespace {

// A table that several threads use grows only after a grace period of RCU, 10 ms and more: while there is but one
// thread it is at once as large as most ever become.
void make_room(rlim_t limit) {
  constexpr rlim_t kMost = 8192;
  const UniqueFd any(::open("/", O_PATH | O_CLOEXEC));
  const UniqueFd high(::fcntl(any.get(), F_DUPFD_CLOEXEC, static_cast<int>(std::min(limit, kMost)) - 1));
}

}  // namespace

DescriptorLimit::DescriptorLimit() {
  if (::getrlimit(RLIMIT_NOFILE, &before_) != 0) return;
  const rlimit all{before_.rlim_max, before_.rlim_max};
  raised_ = before_.rlim_cur != before_.rlim_max && ::setrlimit(RLIMIT_NOFILE, &all) == 0;
  make_room(raised_ ? before_.rlim_max : before_.rlim_cur);
}

DescriptorLimit::~DescriptorLimit() {
  if (raised_) ::setrlimit(RLIMIT_NOFILE, &before_);
}

}  // namespace stasis::kernel
