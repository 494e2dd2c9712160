// SPDX-License-Identifier: Apache-2.0
// ProcessImage: everything a checkpoint knows about one (live) process, gathered in three steps: before the freeze
// (what is slow and does not change), at the freeze, and after it by one batch in the process and one in each thread.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "kernel/proc_dir.h"
#include "resource/fs/fs.h"
#include "resource/memory/memory_image.h"
#include "resource/process/process_record.h"
#include "resource/seccomp/seccomp.h"
#include "resource/signal/signal_record.h"
#include "resource/thread/thread_image.h"
#include "tracee/process.h"

namespace stasis {

// Pid, group, session and the like, as the process's own pid namespace has them.
void fill_ids(const kernel::ProcStat& stat, const kernel::ProcStatus& status, ProcessRecord& record);

class ProcessImage {
 public:
  // Looks at the running process. Errors: it is gone, or not ours to look at.
  static Result<std::unique_ptr<ProcessImage>> look(kernel::ProcDir proc, RunQueueClocks& clocks);

  HostPid pid() const { return proc_.pid(); }
  const kernel::ProcDir& proc() const { return proc_; }
  const std::vector<kernel::Vma>& vmas() const { return vmas_; }
  TracedProcess& traced() { return *traced_; }
  const TracedProcess& traced() const { return *traced_; }

  // Asks all threads to stop / waits until they have. Beyond this nothing in the process moves. A thread that sleeps in
  // vfork can't be stopped, and settle() fails: let_go() of its child, and of it.
  Result<void> attach();
  Result<void> settle(const Patience& patience);
  void let_go();
  bool attached() const { return traced_ != nullptr; }
  bool sleeps_in_vfork() const;
  // Its mappings as they are now. REQUIRES: settled. Any thread may do this.
  Result<void> refresh_mappings();
  // Asks the process and its threads everything but its memory. REQUIRES: settled and refreshed, shares() is set.
  Result<void> inspect(SeccompTable& seccomp, const Patience& patience);
  // The rest, which is seen from outside. REQUIRES: inspect(). Any thread may do this.
  Result<void> inspect_memory(const OpenFileTable& files);

  // With which processes (of those before it in the tree, or itself) it shares what clone(2) can share.
  struct Shares {
    ProcessImage* memory;
    ProcessImage* files;
    ProcessImage* fs;
    ProcessImage* sighand;
  };
  Shares& shares() { return shares_; }

  // Lets it run on where it was, with that signal (0: none); see TracedProcess::resume().
  Result<void> resume(int signal);

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
  explicit ProcessImage(kernel::ProcDir proc) : proc_(std::move(proc)) {}
  void note_waits();
  Result<void> check_timers(const std::vector<kernel::PosixTimer>& timers) const;
  Result<void> ask_process(const Patience& patience);
  Result<void> ask_threads(const Patience& patience);
  Result<void> add_late_signals();
  Result<void> ask_seccomp(SeccompTable& table);
  Result<void> add_ended_leader(const kernel::ProcStat& stat, const kernel::ProcStatus& status);

  kernel::ProcDir proc_;
  std::vector<kernel::Vma> vmas_;
  bool small_ = false;  // smaps is cheap: read anew in the freeze
  Gadgets gadgets_;
  WaitTimes waits_;
  std::unique_ptr<TracedProcess> traced_;
  std::vector<InterruptedCallRecord> calls_;  // in the order of traced_->threads()
  Shares shares_{this, this, this, this};
  std::chrono::steady_clock::time_point settled_at_;
  ProcessRecord record_;
  std::vector<ThreadRecord> threads_;
  bool confined_ = false;  // some thread is under seccomp
  std::vector<SeccompRecord*> seccomp_;
  std::optional<MemoryImage> memory_;
  kernel::ProcStat stat_;
  std::uint64_t brk_ = 0;
  SighandRecord sighand_;
  FsState fs_;
};

}  // namespace stasis
