// SPDX-License-Identifier: Apache-2.0
// ProcessImage: everything a checkpoint knows about one process, gathered in three steps: before the freeze (what is
// slow and does not change), at the freeze, and after it by one batch in the process and one in each thread.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kernel/proc_dir.h"
#include "resource/fs/fs.h"
#include "resource/memory/memory_image.h"
#include "resource/process/process_record.h"
#include "resource/signal/signal_record.h"
#include "resource/thread/thread_image.h"
#include "tracee/process.h"

namespace stasis {

class ProcessImage {
 public:
  // Looks at the running process. Errors: it is gone, or not ours to look at.
  static Result<std::unique_ptr<ProcessImage>> look(HostPid pid);

  HostPid pid() const { return proc_.pid(); }
  const kernel::ProcDir& proc() const { return proc_; }
  const std::vector<kernel::Vma>& vmas() const { return vmas_; }
  TracedProcess& traced() { return *traced_; }

  // Asks all threads to stop / waits until they have. Beyond this nothing in the process moves.
  Result<void> attach();
  Result<void> settle(const Patience& patience);
  // Asks the process and its threads everything.
  Result<void> inspect(const OpenFileTable& files, const Patience& patience);

  // Valid after inspect().
  ProcessRecord& record() { return record_; }
  std::vector<ThreadRecord>& threads() { return threads_; }
  MemoryImage& memory() { return *memory_; }
  SighandRecord& sighand() { return sighand_; }
  FsState& fs() { return fs_; }

 private:
  explicit ProcessImage(kernel::ProcDir proc) : proc_(std::move(proc)) {}
  Result<void> refresh_mappings();
  Result<void> ask_process(const Patience& patience, std::uint64_t& brk);
  Result<void> ask_threads(const Patience& patience);
  void fill_ids(const kernel::ProcStat& stat, const kernel::ProcStatus& status);

  kernel::ProcDir proc_;
  std::vector<kernel::Vma> vmas_;
  bool small_ = false;  // smaps is cheap: read anew in the freeze
  Gadgets gadgets_;
  WaitTimes waits_;
  std::unique_ptr<TracedProcess> traced_;
  std::vector<InterruptedCallRecord> calls_;  // in the order of traced_->threads()
  ProcessRecord record_;
  std::vector<ThreadRecord> threads_;
  std::optional<MemoryImage> memory_;
  SighandRecord sighand_;
  FsState fs_;
};

}  // namespace stasis
