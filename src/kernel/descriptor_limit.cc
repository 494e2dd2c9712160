// SPDX-License-Identifier: Apache-2.0
#include "kernel/descriptor_limit.h"

namespace stasis::kernel {

DescriptorLimit::DescriptorLimit() {
  if (::getrlimit(RLIMIT_NOFILE, &before_) != 0 || before_.rlim_cur == before_.rlim_max) return;
  const rlimit all{before_.rlim_max, before_.rlim_max};
  raised_ = ::setrlimit(RLIMIT_NOFILE, &all) == 0;
}

DescriptorLimit::~DescriptorLimit() {
  if (raised_) ::setrlimit(RLIMIT_NOFILE, &before_);
}

}  // namespace stasis::kernel
