// SPDX-License-Identifier: Apache-2.0
// What heals a process whose signal actions were borrowed, should the coordinator be killed: operations that the thunk
// then runs, and what they point to. Stands in the carrier's slot between the control block and the healing frame.
#pragma once

#include <signal.h>
#include <sys/syscall.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "arch/x86_64/thunk.h"
#include "tracee/gate.h"

namespace stasis {

using BorrowedAction = std::array<std::uint64_t, 4>;  // as rt_sigaction(2) of the kernel lays it out

struct HealArea {
  // Run in this order; what is not needed asks for the pid.
  struct Operations {
    arch::GateOp report_signal;  // rt_sigaction
    arch::GateOp close;          // of a descriptor of ours
    arch::GateOp wait_midwife;   // wait4; the kernel writes the pid (CLONE_PARENT_SETTID)
    arch::GateOp child_signal;   // rt_sigaction
    arch::GateOp child_waiting;  // rt_sigqueueinfo
  } operations;
  BorrowedAction ignore;
  BorrowedAction report_action;
  BorrowedAction child_action;
  siginfo_t waiting;
};
inline constexpr std::size_t kHealOperations = sizeof(HealArea::Operations) / sizeof(arch::GateOp);
inline constexpr arch::GateOp kNoHealOperation{.nr = SYS_getpid};
inline constexpr std::size_t kHealAreaOffset = sizeof(arch::GateControl);
inline constexpr std::size_t kFrameOffset = 832;
static_assert(kHealAreaOffset % alignof(HealArea) == 0 && kHealAreaOffset + sizeof(HealArea) <= kFrameOffset);
inline constexpr std::uint64_t kSigsetSize = 8;

inline HealArea& heal_area(const GateSlot& slot) { return *reinterpret_cast<HealArea*>(slot.local + kHealAreaOffset); }
inline std::uint64_t remote_heal_area(const GateSlot& slot, std::size_t member) {
  return slot.remote + kHealAreaOffset + member;
}

}  // namespace stasis
