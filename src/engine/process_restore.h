// SPDX-License-Identifier: Apache-2.0
// ProcessRestore: one process on its way from its records to running. The steps in order: plan, adopt, map,
// write_pages..., finish_memory, restore_context, restore, watch_own_files, start_calls, stand_by, release.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "engine/inherited_state.h"
#include "kernel/userfaultfd.h"
#include "resource/memory/memory_restore.h"
#include "resource/process/process_record.h"
#include "resource/restart_context.h"
#include "resource/seccomp/seccomp.h"
#include "resource/thread/thread_record.h"
#include "tracee/call_runner.h"
#include "tracee/new_process.h"

namespace stasis {

struct RestoredSighand;

class ProcessRestore {
 public:
  // Checks the records and looks up their objects. Nothing is made.
  static Result<std::unique_ptr<ProcessRestore>> plan(ProcessRecord record, std::vector<ThreadRecord> threads,
                                                      RestartContext& context);

  // Refuses what the owner of the image could not have by himself.
  Result<void> check_rights(const InheritedState& inherited, const ImageOwner& owner) const;

  const ProcessRecord& record() const { return record_; }
  const RestoredMemory& memory() const { return *memory_; }
  std::size_t thread_count() const { return record_.threads; }
  HostPid pid() const { return process_->pid(); }
  NewProcess& task() { return *process_; }
  bool made() const { return process_.has_value(); }
  bool confined() const;
  void add_tids(std::set<ImagePid>& tids) const;
  // A signal of which nothing is pending in the image: it can report the end of batches until the very end.
  int report_signal() const;

  // Which of the objects that clone(2) can share are restored here; the others come from the process it is cloned from.
  struct Owns {
    bool memory = true;
    bool files = true;
    bool fs = true;
    bool sighand = true;
  };
  void set_owns(Owns owns) { owns_ = owns; }
  bool owns_memory() const { return owns_.memory; }

  // The new process that becomes this one.
  void adopt(NewProcess process) { process_.emplace(std::move(process)); }
  // Would a clone of `parent`, when that one's memory is there, be a good start?
  bool can_be_forked_from(const ProcessRestore& parent) const;
  // Address space without pages. `parent`: the process was cloned from it when its memory was there; null: it was not.
  Result<void> map(const RestartGate& gate, const InheritedState& inherited, const ProcessRestore* parent,
                   const Patience& patience);
  // The pages that are those of `origin`, whose memory is there, as far as the process has not got them yet.
  Result<void> copy_forked_pages(const ProcessRestore& origin, const Patience& patience) const;
  // Fills `runs`, one behind another, with `pages`.
  Result<void> write_pages(std::span<const PageRun> runs, std::span<const std::byte> pages) const;
  Result<void> finish_memory(CallRunner& calls) const;
  // A userfaultfd of its own making. REQUIRES: the rights of who restarts, still.
  Result<kernel::Userfaultfd> open_userfaultfd(const Patience& patience);
  // Signal actions and working directory: what must be there in all processes before descriptors are in any.
  Result<void> fill_context(const RestartContext& context, CallRunner& calls) const;
  // Threads, descriptors, signals, limits, credentials: everything but the registers.
  Result<void> restore(const InheritedState& inherited, const RestartContext& context);
  // Has it but one thread, and nothing that takes more than a few calls? Then many are restored at one time, in four
  // steps instead.
  bool is_plain() const;
  Result<void> fill_process(const InheritedState& inherited, const RestartContext& context, CallRunner& calls);
  Result<void> adopt_own_files(const RestartContext& context) const;
  Result<void> fill_last(const InheritedState& inherited, CallRunner& calls);
  Result<void> restore_scheduling();
  // What it must watch by epoll itself. REQUIRES: all that was put off is done.
  Result<void> watch_own_files(const RestartContext& context);
  // What the threads will go on with; yields those whose interrupted call has to be started again.
  Result<std::vector<std::size_t>> load_states();
  // Starts that of one thread and interrupts it, in three steps that many threads can take side by side. `scratch`: of
  // this thread alone until the last of them.
  Result<void> begin_call(std::size_t thread, const GateSlot& scratch);
  Result<void> interrupt_call(std::size_t thread, const Patience& patience);
  Result<void> finish_call(std::size_t thread, const Patience& patience);
  // The gate goes (in three steps likewise; those who share memory lose it with the first), registers are set. Beyond
  // this only release() is left. REQUIRES: no call has to be started in any process.
  Result<void> begin_stand_by();
  Result<void> enter_stand_by(const Patience& patience);
  Result<void> finish_stand_by(const Patience& patience);
  void release() {
    process_->release(record_.stopped && !record_.parent ? NewProcess::Run::kStopped : NewProcess::Run::kRunning);
  }

 private:
  ProcessRestore() = default;
  Result<void> take_ended_leader();
  Result<void> check() const;
  Result<void> leave_creator(const ProcessAttributes& inherited, CallRunner& calls) const;
  Result<void> install_files(const RestartContext& context, CallRunner& calls) const;
  Result<void> restore_process(const InheritedState& inherited, const RestartContext& context);
  Result<void> rejoin_groups(const InheritedState& inherited, const RestartContext& context) const;
  std::vector<const SeccompRecord*> seccomp() const;
  Result<void> confine_threads(std::size_t inherited, const Patience& patience);
  Result<void> end_leader(const InheritedState& inherited, const Patience& patience);
  Result<void> restore_threads(const InheritedState& inherited, const Patience& patience);
  Result<void> queue_thread_signals(const Patience& patience);
  Result<void> fill_thread(std::size_t index, const InheritedState& inherited, Batch& batch, BatchChecks& checks);
  void fill_attributes(const InheritedState& inherited, CallRunner& calls) const;
  bool must_start_call(const ThreadRecord& record, TracedThread& thread) const;
  Result<void> load_state(const ThreadRecord& record, TracedThread& thread) const;

  ProcessRecord record_;
  std::optional<ThreadRecord> ended_leader_;
  std::vector<ThreadRecord> threads_;            // those that live
  std::vector<const RestoredSeccomp*> seccomp_;  // of each, may be null
  RestoredMemory* memory_ = nullptr;
  const RestoredSighand* sighand_ = nullptr;
  SessionPolicy session_ = SessionPolicy::kForeground;
  Owns owns_;
  std::optional<NewProcess> process_;
  std::optional<kernel::ProcessMemory> writer_;
  std::uint64_t syscall_instruction_ = 0;
};

}  // namespace stasis
