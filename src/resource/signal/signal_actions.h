// SPDX-License-Identifier: Apache-2.0
// Signal actions and pending signals: asked inside a process, set inside a new one.
#pragma once

#include <signal.h>

#include <span>

#include "resource/signal/signal_record.h"
#include "stasis/result.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"
#include "tracee/process.h"

namespace stasis {

// Asks for all actions in the batch; take() reads them after it ran.
class SignalActionQuery {
 public:
  explicit SignalActionQuery(Batch& batch);
  // The action that the gate borrowed is reported as the program left it.
  Result<SighandRecord> take(const Batch& batch, const TracedProcess& process) const;

 private:
  GateValue<SignalAction> actions_;
  std::size_t first_call_ = 0;
};

// Sets all actions. The batch runs in the process.
Result<void> restore_signal_actions(const SighandRecord& record, Batch& batch, BatchChecks& checks);

// Pending signals as bytes, and back into the queue: of the process (tid 0) or of one thread. Ids as the process sees
// them.
std::vector<std::byte> encode_pending(std::span<const siginfo_t> pending);
Result<std::vector<siginfo_t>> decode_pending(std::span<const std::byte> bytes);
void restore_pending(std::span<const siginfo_t> pending, std::int32_t tgid, std::int32_t tid, Batch& batch,
                     BatchChecks& checks);

}  // namespace stasis
