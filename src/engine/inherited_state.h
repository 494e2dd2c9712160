// SPDX-License-Identifier: Apache-2.0
// What a fresh child of this process has before anything is restored in it: only what differs needs to be set.
#pragma once

#include "resource/attributes/process_attributes.h"
#include "resource/attributes/thread_attributes.h"
#include "resource/credentials/credentials.h"
#include "resource/limits/process_limits.h"

namespace stasis {

struct InheritedState {
  ThreadAttributes thread;
  ProcessAttributes process;
  ProcessLimits limits;
  Credentials credentials;
  Setgroups setgroups = Setgroups::kAllowed;

  static Result<InheritedState> of_this_process();
};

}  // namespace stasis
