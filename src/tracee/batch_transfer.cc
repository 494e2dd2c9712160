// SPDX-License-Identifier: Apache-2.0
#include "tracee/batch_transfer.h"

namespace stasis {

Result<void> push_batch(const kernel::ProcessMemory& memory, const Batch& batch) {
  const GateSlot& slot = batch.slot();
  const auto calls = batch.calls_extent(), data = batch.data_extent();
  // The control block's first word goes along: it says whether the batch ends at an error.
  slot.control().stop_on_error = batch.on_error() == Batch::OnError::kStop;
  STASIS_TRY(memory.write(slot.remote, std::span(slot.local, sizeof(std::uint64_t))));
  if (calls.begin != calls.end) {
    STASIS_TRY(memory.write(slot.remote + calls.begin, std::span(slot.local + calls.begin, calls.end - calls.begin)));
  }
  if (data.begin == data.end) return {};
  return memory.write(slot.remote + data.begin, std::span(slot.local + data.begin, data.end - data.begin));
}

Result<void> pull_batch(const kernel::ProcessMemory& memory, const Batch& batch) {
  const GateSlot& slot = batch.slot();
  for (const auto& part : {batch.calls_extent(), batch.data_extent()}) {
    if (part.begin == part.end) continue;
    STASIS_TRY(memory.read(slot.remote + part.begin, std::span(slot.local + part.begin, part.end - part.begin)));
  }
  return {};
}

}  // namespace stasis
