// SPDX-License-Identifier: Apache-2.0
// One thread under ptrace, from the moment it is seized until it is let go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arch/x86_64/registers.h"
#include "base/ids.h"
#include "kernel/ptrace.h"
#include "stasis/result.h"
#include "tracee/gate.h"
#include "tracee/patience.h"

namespace stasis {

// Every function must be called by the thread that seized. Dropping a TracedThread does nothing: whoever owns it lets
// it go.
class TracedThread {
 public:
  enum class State { kRunning, kStopped, kGone };

  // Seizes a running thread (it goes on running). `options`: kernel::kTraceSysGood is added.
  static Result<TracedThread> seize(HostPid tid, std::uint64_t options);
  // Takes over a thread that the kernel attached for us (CLONE_PTRACE); it comes to an event stop by itself.
  static TracedThread adopt(HostPid tid);

  HostPid tid() const { return tid_; }
  State state() const { return state_; }
  bool group_stopped() const { return group_stopped_; }

  // Asks for a stop / waits for it. Signals that arrive meanwhile are delivered as usual.
  Result<void> interrupt();
  Result<void> wait_stopped(const Patience& patience);
  // Reads registers, extended state and signal mask into the fields below. REQUIRES: stopped.
  Result<void> capture();

  // Starts a batch without waiting / waits for its report. Between captures the thread may run any number of batches;
  // its own state stays in the fields below and healing(): it is put back by leave_gate().
  Result<void> start(const GateMemory& gate, const Batch& batch, int report_signal);
  Result<void> await_report(const Patience& patience);
  // One system call at the instruction `insn` with stack pointer `stack`, by system-call stops. The result register.
  Result<std::int64_t> single_call(std::uint64_t insn, std::uint64_t stack, long nr,
                                   const std::array<std::uint64_t, 6>& args, const Patience& patience);
  // Starts the call for real and interrupts it once it waits; the result register. See
  // NewProcess::start_and_interrupt().
  Result<std::int64_t> start_and_interrupt(std::uint64_t insn, long nr, const std::array<std::uint64_t, 6>& args,
                                           const Patience& patience);
  // Puts the captured registers and mask back. REQUIRES: stopped.
  Result<void> put_back();
  // Lets it run on. Never fails for good: a thread that is gone is gone.
  void detach();
  // A stop was asked for but not waited for: waits a moment, since only a stopped thread can be let go. One that does
  // not stop (a parent in vfork) is let go by the kernel when the coordinator ends.
  void await_stop_briefly();
  // Sends it a deadly signal, with its default action, and lets that be delivered. REQUIRES: stopped, its process's
  // only thread.
  Result<void> die_by(int signal, const Patience& patience);
  // Takes part in a stop of its process: lets it run until it stands again for that. The SIGSTOP must have been sent.
  Result<void> enter_group_stop(const Patience& patience);
  // Lets it run until it has ended, with the signals that it gets.
  Result<void> await_end(const Patience& patience);
  // After SIGKILL: waits until the thread is gone, so that it leaves no zombie of ours.
  void wait_gone();
  // SIGKILL and wait_gone(). REQUIRES: its process's only thread.
  void kill();
  // The program's signals that arrived while its thread was ours and could not be delivered then.
  const std::vector<int>& held_signals() const { return held_signals_; }

  // Where the thread goes on; changed by those who know better (interrupted calls, critical sections).
  arch::Registers registers{};
  std::vector<std::byte> xstate;
  std::uint64_t signal_mask = 0;

 private:
  explicit TracedThread(HostPid tid) : tid_(tid) {}
  Result<kernel::WaitStatus> wait(const Patience& patience);
  Result<kernel::WaitStatus> wait_through(const Patience& patience);
  // Deals with a stop that is not the one waited for and lets the thread go on (`resume`).
  Result<void> pass_over(kernel::WaitStatus status, int report_signal, Result<void> (*resume)(HostPid, int));
  // Blocks all signals but `except` (0: none). Done after the registers were set, so that a dying coordinator leaves a
  // blocked mask only behind a frame that undoes it.
  Result<void> block_signals(int except);

  HostPid tid_;
  State state_ = State::kRunning;
  bool group_stopped_ = false;
  int report_signal_ = 0;
  int allowed_signal_ = -1;  // -1: the mask is the program's own
  std::vector<int> held_signals_;
};

}  // namespace stasis
