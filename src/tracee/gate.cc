// SPDX-License-Identifier: Apache-2.0
#include "tracee/gate.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/panic.h"

namespace stasis {
namespace {

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

GateMemory& GateMemory::operator=(GateMemory&& other) noexcept {
  if (this == &other) return *this;
  if (local_) ::munmap(local_, total_size());
  local_ = std::exchange(other.local_, nullptr);
  remote_ = std::exchange(other.remote_, 0);
  return *this;
}

GateMemory::~GateMemory() {
  if (local_) ::munmap(local_, total_size());
}

std::size_t GateMemory::code_size() { return page_size(); }
std::size_t GateMemory::total_size() { return code_size() + kCarrierSlotSize + kSmallSlots * kSmallSlotSize; }

Result<GateMemory> GateMemory::map(const UniqueFd& memfd) {
  if (::ftruncate(memfd.get(), static_cast<off_t>(total_size())) != 0)
    return Error::from_errno(errno, "ftruncate gate");
  void* const memory = ::mmap(nullptr, total_size(), PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (memory == MAP_FAILED) return Error::from_errno(errno, "mmap gate");
  GateMemory gate;
  gate.local_ = static_cast<std::byte*>(memory);
  std::ranges::copy(arch::thunk_code(), gate.local_);
  return gate;
}

Result<GateMemory> GateMemory::make_copy() {
  void* const memory = ::mmap(nullptr, total_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Error::from_errno(errno, "mmap gate");
  GateMemory gate;
  gate.local_ = static_cast<std::byte*>(memory);
  return gate;
}

GateSlot GateMemory::carrier_slot() const {
  return {.local = local_ + code_size(), .remote = remote_ + code_size(), .size = kCarrierSlotSize};
}

GateSlot GateMemory::small_slot(std::size_t index) const {
  STASIS_INVARIANT(index < kSmallSlots);
  const std::size_t at = code_size() + kCarrierSlotSize + index * kSmallSlotSize;
  return {.local = local_ + at, .remote = remote_ + at, .size = kSmallSlotSize};
}

Batch::Batch(const GateSlot& slot, OnError on_error)
    : slot_(slot), on_error_(on_error), ops_begin_(kArenaOffset), data_begin_(slot.size) {}

void Batch::clear() {
  data_begin_ = slot_.size;
  count_ = 0;
}

arch::GateOp* Batch::op(std::size_t index) const {
  STASIS_INVARIANT(index < count_);
  return reinterpret_cast<arch::GateOp*>(slot_.local + ops_begin_) + index;
}

bool Batch::has_room(std::size_t calls, std::size_t data_bytes) const {
  constexpr std::size_t kSlack = 64;  // alignment of a few pieces of data
  const std::size_t used = ops_begin_ + count_ * sizeof(arch::GateOp);
  return data_begin_ >= used && data_begin_ - used >= calls * sizeof(arch::GateOp) + data_bytes + kSlack;
}

std::size_t Batch::take(std::size_t bytes, std::size_t alignment) {
  STASIS_INVARIANT(has_room(0, bytes + alignment));
  data_begin_ = (data_begin_ - bytes) & ~(alignment - 1);
  std::memset(slot_.local + data_begin_, 0, bytes);
  return data_begin_;
}

std::size_t Batch::append(long nr, std::initializer_list<std::uint64_t> args) {
  STASIS_INVARIANT(args.size() <= 6 && has_room(1));
  arch::GateOp operation{.nr = nr};
  std::ranges::copy(args, operation.args.begin());
  operation.result = -ECANCELED;  // seen if an earlier failure ends the batch
  const std::size_t index = count_++;
  *op(index) = operation;
  return index;
}

GateValue<char> Batch::text(std::string_view string) {
  auto place = array<char>(string.size() + 1);
  std::ranges::copy(string, place.local);
  return place;
}

GateValue<std::byte> Batch::bytes(std::span<const std::byte> data) {
  auto place = array<std::byte>(data.size());
  std::ranges::copy(data, place.local);
  return place;
}

std::int64_t Batch::result(std::size_t index) const {
  return *const_cast<const volatile std::int64_t*>(&op(index)->result);
}

Result<std::int64_t> Batch::check(std::size_t index, std::string_view what) const {
  const std::int64_t value = result(index);
  if (value < 0 && value >= -4095) return Error::from_errno(static_cast<int>(-value), what);
  return value;
}

}  // namespace stasis
