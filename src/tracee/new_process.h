// SPDX-License-Identifier: Apache-2.0
// NewProcess: a process being made at a restart. It starts as a copy of the coordinator that waits in pause(), and
// becomes somebody else by the system calls it is made to run through the gate, which it inherits.
//
// If the coordinator dies before release(), the kernel kills the process (PTRACE_O_EXITKILL): a half-built restart
// disappears.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "tracee/gate.h"
#include "tracee/patience.h"
#include "tracee/thread.h"

namespace stasis {

// The gate of a restart: mapped in the coordinator at the very place where the new processes will have it. One gate
// serves all of them, one after the other.
class RestartGate {
 public:
  RestartGate() = default;
  RestartGate(RestartGate&& other) noexcept
      : memory_(std::move(other.memory_)), address_(std::exchange(other.address_, 0)) {}
  RestartGate& operator=(RestartGate&&) = delete;
  ~RestartGate();

  // `taken`: address ranges [start, end) that must stay free of it; unsorted, may overlap.
  static Result<RestartGate> create(std::span<const std::pair<std::uint64_t, std::uint64_t>> taken);
  const GateMemory& memory() const { return memory_; }
  std::uint64_t address() const { return address_; }
  std::uint64_t size() const { return GateMemory::total_size(); }

 private:
  GateMemory memory_;
  std::uint64_t address_ = 0;
};

class NewProcess {
 public:
  struct ThreadSpec {
    std::int32_t tid = 0;               // wanted, in the coordinator's pid namespace
    std::uint64_t clear_child_tid = 0;  // address, 0: none
  };

  // A child of the coordinator. `pid` 0: the kernel's choice. `report_signal`: one that the image holds none of
  // pending.
  enum class Seccomp { kNone, kSuspend };  // whether filters take effect before it is let go (needs CAP_SYS_ADMIN)
  static Result<NewProcess> create(const RestartGate& gate, std::int32_t pid, int report_signal, Seccomp seccomp,
                                   const Patience& patience);
  struct Birth {
    std::int32_t pid = 0;     // wanted, 0: the kernel's choice
    std::uint64_t flags = 0;  // CLONE_*
    int exit_signal = 0;
  };
  // A child that this process clones, a copy of what it is by now. It must be dropped, ended or released as well.
  Result<NewProcess> bear(const Birth& birth, int report_signal, const Patience& patience);
  NewProcess(NewProcess&& other) noexcept;
  NewProcess& operator=(NewProcess&&) = delete;
  // Kills it unless released, and waits until it is gone. (Of several, kill() all first.)
  ~NewProcess();
  void kill();

  HostPid pid() const { return pid_; }
  std::vector<TracedThread>& threads() { return threads_; }
  // The thread that runs the batches: the leader, or the first of those that outlive it.
  TracedThread& leader() { return threads_.front(); }

  // A fresh batch in the leader's slot, broken off at the first failing call.
  Batch batch() const { return Batch(gate_->memory().carrier_slot(), Batch::OnError::kStop); }
  Result<void> run(const Batch& batch, const Patience& patience);
  // The same in two steps, of a batch in any slot.
  Result<void> start(const Batch& batch) { return start(leader(), batch); }
  Result<void> finish(const Patience& patience) { return leader().await_report(patience); }
  // The same batch, built in the leader's slot, in threads()[index].
  Result<void> run_in(std::size_t index, const Batch& batch, const Patience& patience);
  // Makes the other threads; they stay stopped.
  Result<void> create_threads(std::span<const ThreadSpec> threads, const Patience& patience);
  // Lets the leader end by itself with that status (0..255), by the syscall instruction at `insn`; the process lives on
  // in its other threads, the first of which takes the leader's place here. REQUIRES: there are others.
  Result<void> end_leader(std::uint64_t insn, int status, const Patience& patience);
  using ThreadBatch = std::function<Result<void>(std::size_t index, Batch&)>;
  // In every thread side by side: `build` fills the batch of threads()[index], `collect` looks at the results.
  Result<void> run_in_each_thread(const ThreadBatch& build, const ThreadBatch& collect, const Patience& patience);

  // Unmaps the gate by the syscall instruction at `insn`, in three steps that many processes can take side by side. No
  // batch can run afterwards.
  Result<void> begin_drop_gate(std::uint64_t insn);
  Result<void> enter_drop_gate(const Patience& patience);
  Result<void> finish_drop_gate(const Patience& patience);
  // Gives a thread its final registers, extended state and mask (the fields of TracedThread).
  Result<void> set_final_state(TracedThread& thread);
  // Lets it run: from here on it is on its own. kStopped: as if by SIGSTOP, without running an instruction.
  enum class Run { kRunning, kStopped };
  void release(Run how = Run::kRunning);
  // A group stop as by SIGSTOP, of all its threads: they still run batches, and stand when they are released.
  Result<void> stop(const Patience& patience);
  // SIGCONT, of which it hears with its next batch.
  Result<void> send_continue();
  // Makes it end so that its parent gets this wait status, and waits for it.
  Result<void> end(int wait_status, const Patience& patience);
  // wait4(2) in this process for a child that has ended, and nothing is left of the SIGCHLD.
  Result<void> reap(HostPid child, const Patience& patience);
  Result<void> forget_child_signal(const Patience& patience);

 private:
  NewProcess(const RestartGate& gate, HostPid pid, int report_signal)
      : gate_(&gate), pid_(pid), report_signal_(report_signal) {}
  void prepare_slot(const TracedThread& thread, const GateSlot& slot) const;
  Result<void> start(TracedThread& thread, const Batch& batch);
  Result<void> take_over(TracedThread thread, const Patience& patience);

  const RestartGate* gate_;
  HostPid pid_;
  int report_signal_;
  std::vector<TracedThread> threads_;
  bool released_ = false;
};

}  // namespace stasis
