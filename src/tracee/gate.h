// SPDX-License-Identifier: Apache-2.0
// The gate: a little memory that coordinator and target share, holding the thunk (src/arch/x86_64/thunk.h) and room for
// batches of system calls. Filling a batch costs no system call; running it costs one stop.
//
//   code page (R+X in the target) | slot of the carrier thread (large) | slots for the other threads (small) ...
//
// In a target all data is private R+W memory and the code R+X, written through /proc/PID/mem; no descriptor is needed
// there, and a target that refuses writable code takes it too. The coordinator keeps a copy of each slot and moves what
// a batch uses back and forth with process_vm_writev(2). New processes (new_process.h) share the memory with the
// coordinator. What stands in gate memory comes from the target and is untrusted: results are read once and checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "arch/x86_64/thunk.h"
#include "base/ids.h"
#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {

// The part of the gate that one thread works in: control block, healing frame, then the arena of its batches.
struct GateSlot {
  std::byte* local = nullptr;
  std::uint64_t remote = 0;
  std::size_t size = 0;

  arch::GateControl& control() const { return *reinterpret_cast<arch::GateControl*>(local); }
};

// Memory of one gate, mapped here. Owns the local mapping; the target's mapping is the tracee layer's business.
class GateMemory {
 public:
  static constexpr std::size_t kSmallSlots = 64;
  static constexpr std::size_t kSmallSlotSize = std::size_t{40} << 10;
  static constexpr std::size_t kCarrierSlotSize = std::size_t{1} << 20;
  static constexpr std::string_view kName = "stasis-gate";

  GateMemory() = default;
  GateMemory(GateMemory&& other) noexcept { *this = std::move(other); }
  GateMemory& operator=(GateMemory&& other) noexcept;
  ~GateMemory();

  // Bytes of the whole gate.
  static std::size_t total_size();
  static std::size_t code_size();
  // Sizes the memfd, maps it here and writes the thunk into it.
  static Result<GateMemory> map(const UniqueFd& memfd);
  // A copy of our own, for a gate that is not shared.
  static Result<GateMemory> make_copy();
  // Where the target has it.
  void set_remote(std::uint64_t address) { remote_ = address; }
  std::uint64_t remote() const { return remote_; }
  std::uint64_t thunk() const { return remote_; }

  GateSlot carrier_slot() const;
  GateSlot small_slot(std::size_t index) const;

 private:
  std::byte* local_ = nullptr;
  std::uint64_t remote_ = 0;
};

// Something placed in the gate: written here, named by its address there.
template <class T>
struct GateValue {
  T* local = nullptr;
  std::uint64_t remote = 0;
  T& operator*() const { return *local; }
  T* operator->() const { return local; }
};

// A batch of system calls being put together in a slot. Operations grow from the front of the arena, data from its end.
// Not owning: the slot must outlive it. REQUIRES: the slot's thread is stopped.
class Batch {
 public:
  enum class OnError { kContinue, kStop };

  // Where a slot's arena begins. Before it: the control block, what heals a borrowed signal, the healing frame (up to
  // 12 KiB with AMX state).
  static constexpr std::size_t kArenaOffset = std::size_t{14} << 10;

  explicit Batch(const GateSlot& slot, OnError on_error = OnError::kContinue);

  // Appends a call; yields its index. Arguments are integers, enums, RemotePtr or GateValue addresses.
  template <class... Args>
  std::size_t call(long nr, Args... args) {
    return append(nr, {argument(args)...});
  }
  // Copies `value` into the gate / reserves room for `count` of them, zeroed. REQUIRES: has_room().
  template <class T>
  GateValue<T> put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    auto place = array<T>(1);
    std::memcpy(static_cast<void*>(place.local), &value, sizeof(T));
    return place;
  }
  template <class T>
  GateValue<T> array(std::size_t count) {
    const std::size_t at = take(count * sizeof(T), alignof(T) < 8 ? 8 : alignof(T));
    return {reinterpret_cast<T*>(slot_.local + at), slot_.remote + at};
  }
  // A NUL-terminated copy.
  GateValue<char> text(std::string_view string);
  GateValue<std::byte> bytes(std::span<const std::byte> data);

  // Room for that many more calls and bytes of data?
  bool has_room(std::size_t calls, std::size_t data_bytes = 0) const;
  std::size_t size() const { return count_; }
  bool empty() const { return count_ == 0; }
  // Result of a call after the batch ran: >= 0, or a negated errno.
  std::int64_t result(std::size_t index) const;
  // Error with `what` if that call failed.
  Result<std::int64_t> check(std::size_t index, std::string_view what) const;
  // The thread uses an AMX tile before it runs the batch (see arch::touching_tiles()).
  void touch_tiles() { tiles_ = put(arch::TileConfiguration{}).remote; }
  std::uint64_t tile_configuration() const { return tiles_; }
  // Forgets everything, for the next batch in the same slot.
  void clear();

  // What the batch uses of its slot, for a gate that is not shared: the control block, its calls, their data; offsets
  // in the slot.
  struct Extent {
    std::size_t begin, end;
  };
  Extent calls_extent() const { return {ops_begin_, ops_begin_ + count_ * sizeof(arch::GateOp)}; }
  Extent data_extent() const { return {data_begin_, slot_.size}; }

  const GateSlot& slot() const { return slot_; }
  OnError on_error() const { return on_error_; }
  std::uint64_t remote_ops() const { return slot_.remote + ops_begin_; }

 private:
  template <class A>
  static std::uint64_t argument(A a) {
    if constexpr (requires { a.remote; }) {
      return a.remote;
    } else if constexpr (requires { a.address(); }) {
      return a.address();
    } else if constexpr (std::is_enum_v<A>) {
      return static_cast<std::uint64_t>(std::to_underlying(a));
    } else {
      return static_cast<std::uint64_t>(a);  // sign-extends, as the kernel expects of ints
    }
  }
  std::size_t append(long nr, std::initializer_list<std::uint64_t> args);
  std::size_t take(std::size_t bytes, std::size_t alignment);
  arch::GateOp* op(std::size_t index) const;

  GateSlot slot_;
  OnError on_error_;
  std::size_t ops_begin_;
  std::size_t data_begin_;
  std::size_t count_ = 0;
  std::uint64_t tiles_ = 0;
};

}  // namespace stasis
