// SPDX-License-Identifier: Apache-2.0
// ProcessImage: everything a checkpoint knows about one (live) process,
// gathered in three steps: before the freeze (what is slow and does not
// change), at the freeze, and after it by one batch in the process and one in
// each thread.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/without_memory.h"
#include "kernel/kept_file.h"
#include "kernel/proc_dir.h"
#include "resource/fs/fs.h"
#include "resource/memory/memory_image.h"
#include "resource/process/process_record.h"
#include "resource/seccomp/seccomp.h"
#include "resource/signal/signal_record.h"
#include "resource/task_obstacles/task_obstacles.h"
#include "resource/thread/thread_image.h"
#include "tracee/process.h"

namespace stasis {

// Pid, group, session and the like, as the process's own pid namespace has
// them.
void fill_ids(const kernel::ProcStat& stat, const kernel::ProcStatus& status, ProcessRecord& record);

class ProcessImage {
 public:
  // Looks at the running process, of which `facts` are known. Errors: it is
  // gone, or not ours to look at.
  static Result<std::unique_ptr<ProcessImage>> look(kernel::ProcDir proc, TaskFacts facts, RunQueueClocks& clocks);

  ~ProcessImage();
  HostPid pid() const { return proc_.pid(); }
  const kernel::ProcDir& proc() const { return proc_; }
  const std::vector<kernel::Vma>& vmas() const { return vmas_; }
  TracedProcess& traced() { return *traced_; }
  const TracedProcess& traced() const { return *traced_; }

  // Its children while it runs. For children(), it keeps open what tells of them.
  Result<std::vector<HostPid>> look_for_children();
  // Its children, ascending. REQUIRES: settled.
  Result<std::vector<HostPid>> children() const;

  // Asks all threads to stop / waits until they have. Beyond this nothing in
  // the process moves. A thread that sleeps in vfork can't be stopped, and
  // settle() fails: let_go() of its child, and of it.
  Result<void> attach();
  // `standing` is called as soon as they have: from then on its mappings can be
  // looked at.
  Result<void> settle(const Patience& patience, const std::function<void()>& standing);
  void let_go();
  bool attached() const { return traced_ != nullptr; }
  bool sleeps_in_vfork() const;
  // Had it children when it settled? (Who has none then gets none while it
  // stands.)
  void set_childless(bool childless) { childless_ = childless; }
  bool childless() const { return childless_; }
  // Its mappings as they are now; for good, unless others who share its memory
  // run on. REQUIRES: settled. Any thread may do this.
  Result<void> refresh_mappings();
  // The same ahead of refresh(), which tells how it went.
  void look_ahead() {
    looked_ahead_ = or_no_memory([this] { return refresh_mappings(); });
  }
  // What is seen of it from outside, as it is now. REQUIRES: settled. Any
  // thread may do this.
  Result<void> refresh();
  // Valid after refresh().
  HostPid parent() const { return HostPid(stat_.ppid); }
  const kernel::ProcStat& stat() const { return stat_; }
  // What keeps it from being saved that was not there when it was looked at.
  // REQUIRES: refreshed. Any thread may do this.
  Result<Obstacles> find_late_obstacles(const Observer& observer, const UsedSemaphores& semaphores) const;
  // For the gate through which inspect() asks. REQUIRES: settled and refreshed.
  TracedProcess::GateOrder gate_order() const;
  // Asks the process and its threads everything but its memory, in two steps, so
  // that all processes are asked at one time. REQUIRES: the gate is open,
  // shares() is set.
  Result<void> begin_inspection();
  Result<void> inspect(SeccompTable& seccomp, const Patience& patience);
  // The rest, which is seen from outside. REQUIRES: refreshed, shares() is set.
  // Any thread may do this, beside inspect().
  Result<void> inspect_memory(const OpenFileTable& files);
  // REQUIRES: inspect() and inspect_memory().
  void finish_inspection();

  // With which processes (of those before it in the tree, or itself) it shares
  // what clone(2) can share.
  struct Shares {
    ProcessImage* memory;
    ProcessImage* files;
    ProcessImage* fs;
    ProcessImage* sighand;
  };
  Shares& shares() { return shares_; }

  // Lets it run on where it was, with that signal (0: none); see
  // TracedProcess::resume().
  Result<void> resume(int signal, const Patience& patience);

  // Valid after inspect().
  ProcessRecord& record() { return record_; }
  const ProcessRecord& record() const { return record_; }
  std::vector<ThreadRecord>& threads() { return threads_; }
  // By thread; empty: none is confined.
  const std::vector<SeccompRecord*>& seccomp() const { return seccomp_; }
  // Those of the process it shares them with.
  MemoryImage& memory() { return *shares_.memory->memory_; }
  const MemoryImage& memory() const { return *shares_.memory->memory_; }
  SighandRecord& sighand() { return shares_.sighand->sighand_; }
  FsState& fs() { return shares_.fs->fs_; }
  bool owns_memory() const { return shares_.memory == this; }
  PageHolder pages();

 private:
  // What the process is asked, by the thread that carries it.
  struct Questions;
  class Asking;

  ProcessImage(kernel::ProcDir proc, TaskFacts facts);
  void note_waits();
  Result<void> check_timers(const std::vector<kernel::PosixTimer>& timers) const;
  Result<std::string> children_of(HostPid tid) const;
  Result<void> take_answers(const Questions& questions, const Batch& batch);
  enum class Pending { kOfProcess, kOfThreadsToo };
  Result<void> note_pending_signals(Pending which);
  Result<void> add_late_signals();
  Result<void> ask_seccomp(SeccompTable& table);
  Result<void> add_ended_leader();

  kernel::ProcDir proc_;
  TaskFacts facts_;
  // What tells of a thread's children, and whether it is still that thread.
  struct KeptThread {
    kernel::KeptFile children, proof;
  };
  std::map<HostPid, KeptThread> kept_threads_;
  bool childless_ = false;
  std::vector<kernel::Vma> vmas_;
  std::optional<Result<void>> looked_ahead_;
  bool small_ = false;  // smaps is cheap: read anew in the freeze
  Gadgets gadgets_;
  WaitTimes waits_;
  std::unique_ptr<TracedProcess> traced_;
  std::vector<SettledThread> settled_threads_;  // in the order of traced_->threads()
  Shares shares_{this, this, this, this};
  std::chrono::steady_clock::time_point settled_at_;
  ProcessRecord record_;
  std::vector<ThreadRecord> threads_;
  bool confined_ = false;  // some thread is under seccomp
  std::vector<SeccompRecord*> seccomp_;
  std::unique_ptr<Asking> asking_;  // between begin_inspection() and inspect()
  std::optional<MemoryImage> memory_;
  kernel::ProcStat stat_;
  kernel::ProcStatus status_;
  OutsideAttributes outside_;
  std::uint64_t brk_ = 0;
  SighandRecord sighand_;
  FsState fs_;
};

}  // namespace stasis
