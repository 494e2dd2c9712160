// SPDX-License-Identifier: Apache-2.0
// TracedProcess: one process, all of its threads held still, with a gate to run system calls in it.
//
// Order of calls: attach() -> settle() -> [look] -> open_gate() -> run()... -> resume(). Dropping it at any point puts
// everything back and lets the process run on; it never throws that away. Between open_gate() and resume() the process
// also survives a kill -9 of the coordinator (see arch/x86_64/thunk.h and tracee/gadgets.h).
//
//   auto process = STASIS_TRY(TracedProcess::attach(pid, options));
//   STASIS_TRY(process->settle(patience));
//   STASIS_TRY(process->open_gate(gadgets, patience));
//   Batch batch(process->carrier_slot());
//   const auto brk = batch.call(SYS_brk, 0);
//   STASIS_TRY(process->run(batch, patience));
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "kernel/proc_dir.h"
#include "kernel/process_memory.h"
#include "tracee/gadgets.h"
#include "tracee/gate.h"
#include "tracee/patience.h"
#include "tracee/process_copy.h"
#include "tracee/thread.h"

namespace stasis {

using AddressRange = std::pair<std::uint64_t, std::uint64_t>;  // [start, end)

class TracedProcess {
 public:
  enum class Seccomp { kNone, kSuspend };

  // Seizes every thread found and asks it to stop. `seccomp`: suspend the filters (needs CAP_SYS_ADMIN).
  static Result<std::unique_ptr<TracedProcess>> attach(HostPid pid, Seccomp seccomp);
  static Result<std::unique_ptr<TracedProcess>> attach(kernel::ProcDir proc, Seccomp seccomp);
  ~TracedProcess();
  TracedProcess(const TracedProcess&) = delete;
  TracedProcess& operator=(const TracedProcess&) = delete;

  HostPid pid() const { return pid_; }
  const kernel::ProcDir& proc() const { return proc_; }
  // REQUIRES: settled.
  const kernel::ProcessMemory& memory() const { return *memory_; }
  // Live threads, the leader first where it lives.
  std::vector<TracedThread>& threads() { return threads_; }
  const std::vector<TracedThread>& threads() const { return threads_; }
  // The thread that runs the batches.
  TracedThread& carrier() { return threads_.front(); }
  const TracedThread& carrier() const { return threads_.front(); }

  // Waits until all threads, those born meanwhile included, are stopped, and captures them. Beyond this point nothing
  // in the process moves.
  Result<void> settle(const Patience& patience);

  // Maps the gate. REQUIRES: settled. On failure nothing of ours stays in the process.
  Result<void> open_gate(const Gadgets& gadgets, const std::vector<kernel::Vma>& vmas, const Patience& patience);
  // Of many processes side by side: each step is begun in all before it is waited for in any. What fails in one is
  // carried to its end in the others; the error of the first is returned.
  struct GateOrder {
    TracedProcess* process;
    const Gadgets* gadgets;
    const std::vector<kernel::Vma>* vmas;
    const kernel::ProcStatus* status;
  };
  static Result<void> open_gates(std::span<const GateOrder> orders, const Patience& patience);
  // Unmaps those gates that can go at once, before resume() of the processes, which deals with the others.
  static void close_gates(std::span<TracedProcess* const> processes, const Patience& patience);
  bool gate_open() const { return gate_.remote() != 0; }
  // [begin, end) of the gate in the process.
  std::pair<std::uint64_t, std::uint64_t> gate_range() const;
  GateSlot carrier_slot() const { return gate_.carrier_slot(); }
  // Through which its descriptors can be had. REQUIRES: settled.
  const UniqueFd& pidfd() const { return files_pidfd_ ? files_pidfd_ : pidfd_; }

  // What the process itself calls a thread: another number where it lives in a pid namespace of its own. REQUIRES: the
  // gate is open.
  Result<std::int32_t> inner_tid(HostPid tid) const;

  // Runs a batch that was built in carrier_slot(). Results are in the batch; this fails only if it could not be run.
  Result<void> run(const Batch& batch, const Patience& patience);
  // In every thread: `build` fills a batch, all run side by side, `collect` reads the results.
  using ThreadBatch = std::function<void(TracedThread&, Batch&)>;
  Result<void> run_in_each_thread(const ThreadBatch& build, const ThreadBatch& collect, const Patience& patience);
  // The same in two steps, so that it goes on in several processes at one time: as many threads as have room in the
  // gate are started by the first, the others run in the second. REQUIRES: nothing else runs in the process in between.
  Result<void> start_in_each_thread(const ThreadBatch& build);
  Result<void> finish_in_each_thread(const ThreadBatch& build, const ThreadBatch& collect, const Patience& patience);

  // If we are killed before the gate goes, that descriptor is closed on the way out (-1: none any more). REQUIRES: the
  // gate is open.
  Result<void> close_if_killed(int fd);

  // The signal whose action had to be borrowed for the gate (0: none) and the program's own action for it, as
  // rt_sigaction(2) of the kernel lays it out.
  int borrowed_signal() const { return borrowed_ ? report_signal_ : 0; }
  std::array<std::uint64_t, 4> borrowed_action() const { return borrowed_action_; }

  // Copies the process as it is now, see process_copy.h; in two steps so that several are copied at one time.
  // `unwanted`: what shall not be in the copy. REQUIRES: the gate is open; all its children are stopped or have ended;
  // neither it nor an ancestor that is held as well is a child subreaper or the first process of a pid namespace.
  // kRefused: not of this process; other errors: of clone(2).
  Result<void> start_copy(const Patience& patience);
  Result<ProcessCopy> finish_copy(std::span<const AddressRange> unwanted, const Patience& patience);

  // Where its children are ignored for a copy's sake they are not any more. To be called before one of them is let go.
  void heed_children(const Patience& patience);

  // Takes the gate down and puts every thread back as it was captured, still stopped.
  Result<void> restore(const Patience& patience);
  // restore() and let go. Carried through as far as it can be, even after errors; the first of them is returned.
  // `signal` (0: none) is sent to the process before any of its threads runs again. `patience`: one that lasts, where
  // there is one already.
  Result<void> resume(int signal = 0, const Patience* patience = nullptr);
  // SIGKILL, and waits until every thread is gone.
  void kill();

 private:
  TracedProcess(HostPid pid, kernel::ProcDir proc) : pid_(pid), proc_(std::move(proc)) {}
  bool left_over_from_before(HostPid tid) const;
  Result<bool> attach_new_threads();
  bool holds_all_threads() const;
  void forget_gone_threads();
  void let_threads_go(int signal);
  void let_unsettled_threads_go();
  Result<void> choose_report_signal(const kernel::ProcStatus& status);
  // A process that came under seccomp since it was looked at must not be made to call anything before its filters are
  // suspended.
  Result<void> suspend_late_seccomp(std::uint32_t mode);
  Result<void> borrow_report_signal(const Patience& patience);
  Result<void> give_signal_back(const Patience& patience);
  Result<Batch::Extent> prepare_slot(TracedThread& thread, const GateSlot& slot) const;
  // A call before the gate stands or when it goes.
  struct UnguardedCall {
    TracedProcess* process;
    long nr;
    std::array<std::uint64_t, 6> args;
    Result<std::int64_t> result = std::int64_t{0};
  };
  Result<void> begin(const UnguardedCall& call);
  static void run_side_by_side(std::span<UnguardedCall> calls, const Patience& patience);
  Result<std::int64_t> unguarded_call(long nr, const std::array<std::uint64_t, 6>& args, const Patience& patience);
  Result<void> place_stack_frame(const std::vector<kernel::Vma>& vmas);
  Result<void> prepare_gate(const GateOrder& order);
  Result<void> furnish_gate(const Patience& patience);
  Result<void> unmap_gate(const Patience& patience);
  Result<void> start_round(std::size_t first, const ThreadBatch& build);
  Result<void> finish_round(std::size_t first, const ThreadBatch& collect, const Patience& patience);
  Result<void> push_slot(const GateSlot& slot) const;
  // The slot of somebody who is not healed but killed, in that memory; `inner`: what he calls himself.
  Result<void> prepare_foreign_slot(const kernel::ProcessMemory& memory, const GateSlot& slot, std::int64_t inner);
  Result<std::optional<siginfo_t>> waiting_child_signal() const;
  Result<void> ignore_children(const Patience& patience);
  Result<void> find_lost_midwife(const Patience& patience);
  Result<void> end_midwife(const Patience& patience);
  // The same where the process itself has ended.
  void drop_midwife();
  Result<void> strip(ProcessCopy& copy, std::int64_t inner, std::span<const AddressRange> unwanted,
                     const Patience& patience);
  enum class LeaveBy { kSigreturn, kUnmapping };
  Result<void> set_way_out(LeaveBy way);

  HostPid pid_;
  kernel::ProcDir proc_;
  std::uint64_t options_ = 0;
  std::vector<TracedThread> threads_;
  std::optional<kernel::ProcessMemory> memory_;
  bool settled_ = false;
  UniqueFd pidfd_;
  UniqueFd files_pidfd_;  // of a live thread, where the leader has ended
  Gadgets gadgets_;
  std::uint64_t stack_frame_ = 0;  // of the carrier, 0 if it has none
  GateMemory gate_;
  GateMemory gate_to_be_;  // until the process has it
  int report_signal_ = 0;
  bool must_borrow_ = false;  // no signal can report the end of a batch as it is
  std::vector<Batch> round_;  // that were started and not yet waited for
  bool borrowed_ = false;
  std::array<std::uint64_t, 4> borrowed_action_{};
  bool children_ignored_ = false;  // its action for SIGCHLD stands in the heal area
  std::optional<TracedThread> midwife_;
  std::optional<Batch> copying_;    // hers
  bool copied_ = false;             // somebody has taken what she has borne
  std::int32_t inner_tgid_ = 0;     // in the process's own pid namespace
  bool own_pid_namespace_ = false;  // it is another than ours
};

}  // namespace stasis
