// SPDX-License-Identifier: Apache-2.0
#include "tracee/batch_transfer.h"

#include <algorithm>
#include <array>
#include <vector>

namespace stasis {

Result<void> push_parts(const kernel::ProcessMemory& memory, const GateSlot& slot,
                        std::span<const Batch::Extent> parts) {
  std::vector<kernel::RemoteRange> ranges;
  std::vector<std::byte> bytes;
  for (const Batch::Extent& part : parts) {
    ranges.push_back({.address = slot.remote + part.begin, .size = part.end - part.begin});
    bytes.insert(bytes.end(), slot.local + part.begin, slot.local + part.end);
  }
  return memory.write(ranges, bytes);
}

Result<void> push_parts(const kernel::ProcessMemory& memory, std::span<const SlotPart> parts) {
  std::vector<kernel::RemoteRange> ranges;
  std::vector<std::byte> bytes;
  for (const auto& [slot, part] : parts) {
    ranges.push_back({.address = slot.remote + part.begin, .size = part.end - part.begin});
    bytes.insert(bytes.end(), slot.local + part.begin, slot.local + part.end);
  }
  return memory.write(ranges, bytes);
}

Result<void> pull_parts(const kernel::ProcessMemory& memory, std::span<const SlotPart> parts) {
  std::vector<kernel::RemoteRange> ranges;
  std::size_t size = 0;
  for (const auto& [slot, part] : parts) {
    ranges.push_back({.address = slot.remote + part.begin, .size = part.end - part.begin});
    size += part.end - part.begin;
  }
  std::vector<std::byte> bytes(size);
  STASIS_TRY(memory.read(ranges, bytes));
  auto from = bytes.begin();
  for (const auto& [slot, part] : parts) {
    const auto next = from + static_cast<std::ptrdiff_t>(part.end - part.begin);
    std::copy(from, next, slot.local + part.begin);
    from = next;
  }
  return {};
}

void append_batch(std::vector<SlotPart>& parts, const Batch& batch) {
  parts.push_back({.slot = batch.slot(), .part = batch.calls_extent()});
  parts.push_back({.slot = batch.slot(), .part = batch.data_extent()});
}

Result<void> push_batch(const kernel::ProcessMemory& memory, const Batch& batch, Batch::Extent head) {
  const GateSlot& slot = batch.slot();
  slot.control().stop_on_error = batch.on_error() == Batch::OnError::kStop;
  return push_parts(memory, slot, std::array{head, batch.calls_extent(), batch.data_extent()});
}

Result<void> pull_batch(const kernel::ProcessMemory& memory, const Batch& batch) {
  const GateSlot& slot = batch.slot();
  return pull_parts(memory, std::array{SlotPart{slot, batch.calls_extent()}, SlotPart{slot, batch.data_extent()}});
}

}  // namespace stasis
