// SPDX-License-Identifier: Apache-2.0
// The only foreign code that ever runs in a target: position-independent, about 150 bytes.
//
// It runs a batch of system calls out of memory shared with the coordinator, then reports by queueing a signal to
// itself whose present action is "ignore". A tracer sees that as a signal-delivery-stop and suppresses it. Where there
// is no tracer any more (kill -9 of the coordinator) the kernel drops the signal, and the thread goes on: it undoes
// what was borrowed (the heal operations) and leaves through rt_sigreturn on a frame that holds its own state. It heals
// itself.
//
// A child that it makes by clone(2), not clone3(2), must be held by the tracer; otherwise it ends at once.
#pragma once

#include <signal.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "arch/x86_64/registers.h"

namespace stasis::arch {

// One system call of a batch. Layout known to the thunk.
struct GateOp {
  std::int64_t nr = 0;
  std::array<std::uint64_t, 6> args{};
  std::int64_t result = 0;
};
static_assert(sizeof(GateOp) == 64);

// What the thunk needs to know besides its operations; one for each thread that runs it. Layout known to the thunk.
struct GateControl {
  std::uint64_t stop_on_error = 0;  // nonzero: a failing operation ends the batch
  std::int64_t tgid = 0;            // in the target's own pid namespace
  std::int64_t tid = 0;
  std::int64_t signal = 0;             // the ignored signal that reports the end
  std::uint64_t heal_ops = 0;          // address and
  std::uint64_t heal_count = 0;        // number of the operations run when nobody listens
  std::uint64_t heal_frame_stack = 0;  // stack pointer for rt_sigreturn, or for leave_by
  // Address of a `syscall; ret` outside the gate, or 0. Healing then ends with munmap of the gate made there, with the
  // stack pointer on a frame whose first word leads to a signal restorer: nothing of the gate is left.
  std::uint64_t leave_by = 0;
  siginfo_t report{};  // what is queued
  std::uint64_t gate_start = 0;
  std::uint64_t gate_size = 0;
};
static_assert(offsetof(GateControl, report) == 64 && sizeof(GateControl) == 208);

// Marks our report among other signals of the same number (si_code, negative as for any queued signal).
inline constexpr int kReportCode = -0x5354;

// The thunk's bytes.
std::span<const std::byte> thunk_code();
// Offset, from the thunk's start, of the instruction after the report: where a reporting thread stands.
std::size_t thunk_report_offset();
// Registers that make a thread run `count` operations at `ops` (all addresses in the target) with `control`.
Registers with_thunk(Registers base, std::uint64_t thunk, std::uint64_t control, std::uint64_t ops,
                     std::uint64_t count);

// The operand of ldtilecfg (Intel SDM vol. 2): one tile of full size.
struct TileConfiguration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64};
  std::uint8_t rows[16] = {16};
};
static_assert(sizeof(TileConfiguration) == 64);
// The same entry (of with_thunk()), but the thread uses an AMX tile first: only then does the kernel give it room for
// tile state, without which PTRACE_SETREGSET refuses such state. `configuration`: address of a TileConfiguration in the
// target.
Registers touching_tiles(Registers entry, std::uint64_t configuration);

// Byte patterns of `syscall; ret` and of a signal restorer (`mov $15,%rax; syscall`): any C library has both in its
// text.
std::span<const std::byte> syscall_return_pattern();
std::span<const std::byte> sigreturn_pattern();

}  // namespace stasis::arch
