// SPDX-License-Identifier: Apache-2.0
#include "tracee/local_batch.h"

#include <cerrno>

#include "arch/x86_64/thunk.h"
#include "kernel/raw.h"

namespace stasis {
namespace {

GateSlot slot_in(std::vector<std::max_align_t>& memory, std::size_t size) {
  auto* const local = reinterpret_cast<std::byte*>(memory.data());
  return {.local = local, .remote = reinterpret_cast<std::uint64_t>(local), .size = size};
}

}  // namespace

LocalBatch::LocalBatch() : memory_(kSize / sizeof(std::max_align_t)), batch_(slot_in(memory_, kSize)) {}

void LocalBatch::run() {
  auto* const ops = reinterpret_cast<arch::GateOp*>(batch_.remote_ops());
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    const auto& a = ops[i].args;
    const long result = kernel::raw_no_fault(ops[i].nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    ops[i].result = result == -1 ? -errno : result;
    if (result == -1 && batch_.on_error() == Batch::OnError::kStop) return;
  }
}

}  // namespace stasis
