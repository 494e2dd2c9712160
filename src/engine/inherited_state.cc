// SPDX-License-Identifier: Apache-2.0
#include "engine/inherited_state.h"

#include <unistd.h>

#include "tracee/local_batch.h"

namespace stasis {

Result<InheritedState> InheritedState::of_this_process() {
  const HostPid self(::getpid());
  const auto proc = STASIS_TRY(kernel::ProcDir::open(self));
  InheritedState state;
  state.thread = STASIS_TRY(own_thread_attributes());
  state.limits = STASIS_TRY(own_limits());
  LocalBatch local;
  const ProcessAttributeQuery process(local.batch());
  const CredentialsQuery credentials(local.batch());
  local.run();
  const auto outside = STASIS_TRY(OutsideAttributes::read(proc));
  state.process = STASIS_TRY(process.take(local.batch(), outside));
  CredentialsCache cache;
  state.credentials = STASIS_TRY(credentials.take(local.batch(), proc, self, cache));
  state.setgroups = STASIS_TRY(read_setgroups(proc));
  return state;
}

}  // namespace stasis
