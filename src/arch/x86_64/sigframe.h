// SPDX-License-Identifier: Apache-2.0
// A signal frame made by hand: rt_sigreturn(2) on it puts a thread back where it was, with nobody's help.
// This is what keeps a target alive when the coordinator is killed while the thread runs foreign calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "arch/x86_64/registers.h"
#include "stasis/result.h"

namespace stasis::arch {

struct SigframeInput {
  Registers registers;                // where the thread must go on
  std::span<const std::byte> xstate;  // NT_X86_XSTATE of the thread
  std::uint64_t signal_mask = 0;
  std::uint64_t return_address = 0;  // first word: where a `ret` on the frame leads (a restorer), or 0
};

// The frame's bytes and where they must lie.
struct Sigframe {
  std::vector<std::byte> bytes;
  std::uint64_t address = 0;  // of bytes[0], in the target
};

// Bytes that a frame for this extended state takes at most, alignment included.
std::size_t sigframe_size(std::span<const std::byte> xstate);
// Builds the frame so that it ends at or below `top`. A call that awaits its restart is executed anew from its start,
// since rt_sigreturn clears the kernel's restart block. The alternate stack is left as it is.
Result<Sigframe> make_sigframe_below(const SigframeInput& input, std::uint64_t top);
// Builds the frame so that it starts at or above `bottom`.
Result<Sigframe> make_sigframe_above(const SigframeInput& input, std::uint64_t bottom);

// Stack pointer with which rt_sigreturn(2) must be executed to take the frame at `address`.
inline std::uint64_t sigreturn_stack_pointer(std::uint64_t address) { return address + sizeof(std::uint64_t); }

// Bytes below the stack pointer that a function may use without moving it (System V ABI).
inline constexpr std::uint64_t kRedZone = 128;

}  // namespace stasis::arch
