// SPDX-License-Identifier: Apache-2.0
// DescriptorLimit: as many open files as the hard limit allows.
#pragma once

#include <sys/resource.h>

namespace stasis::kernel {

// While one lives, the soft limit of open files of this process is the hard one: whoever holds a program's files needs
// room for all of them. Failing to raise it is not an error; what runs out then says so. One at a time.
class DescriptorLimit {
 public:
  DescriptorLimit();
  ~DescriptorLimit();
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;

 private:
  rlimit before_{};
  bool raised_ = false;
};

}  // namespace stasis::kernel
