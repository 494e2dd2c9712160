// SPDX-License-Identifier: Apache-2.0
// Going without a capability for a moment.
#pragma once

#include "stasis/result.h"

namespace stasis::kernel {

// While one lives, this thread (no other) has not that capability (CAP_*) in effect.
class WithoutCapability {
 public:
  static Result<WithoutCapability> take(int capability);
  WithoutCapability(WithoutCapability&& other) noexcept;
  WithoutCapability& operator=(WithoutCapability&&) = delete;
  ~WithoutCapability();

 private:
  explicit WithoutCapability(int capability) : capability_(capability) {}
  int capability_ = 0;
  bool active_ = false;
};

}  // namespace stasis::kernel
