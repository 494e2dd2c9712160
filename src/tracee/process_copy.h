// SPDX-License-Identifier: Apache-2.0
// ProcessCopy: the memory of a stopped process as it is now, kept by a copy-on-write fork of it that never runs code of
// the program. The process itself has no trace of it: no child, no SIGCHLD, no wait status, nothing of its rusage.
//
// Made by TracedProcess::start_copy() and finish_copy(): a midwife, which shares everything with the process, forks the
// copy and ends; the kernel forgets her without a word, as SIGCHLD is ignored in this moment. The copy is then nobody's
// but the reaper's of the pid namespace. It holds no descriptor, no mapping that others share, no directory, and it is
// in a session of its own. If the coordinator dies, the kernel kills it (PTRACE_O_EXITKILL); where memory runs short,
// it is the first to go.
//
// Not in the copy: what madvise(2) keeps from children (MADV_DONTFORK, MADV_WIPEONFORK), and shared mappings. Huge
// pages of hugetlbfs may be taken from it.
#pragma once

#include "base/ids.h"
#include "kernel/process_memory.h"
#include "tracee/thread.h"

namespace stasis {

// Made and dropped by the thread that traces; its memory may be read by any.
class ProcessCopy {
 public:
  ProcessCopy(HostPid pid, kernel::ProcDir proc, kernel::ProcessMemory memory)
      : thread_(TracedThread::adopt(pid)), proc_(std::move(proc)), memory_(std::move(memory)) {}
  ProcessCopy(ProcessCopy&& other) noexcept
      : thread_(other.thread_),
        proc_(std::move(other.proc_)),
        memory_(std::move(other.memory_)),
        alive_(std::exchange(other.alive_, false)) {}
  ProcessCopy& operator=(ProcessCopy&&) = delete;
  // Waits until it has ended.
  ~ProcessCopy();

  HostPid pid() const { return thread_.tid(); }
  // What it shares with the process by copy on write stays shared if it is read by read_shared() alone.
  const kernel::ProcessMemory& memory() const { return memory_; }
  // Killed by others: what is read of it then fails.
  bool has_ended() const { return proc_.has_ended(); }
  // Tells it to end, and does not wait for that. Nothing may be read any more.
  void end();

 private:
  friend class TracedProcess;
  TracedThread thread_;
  kernel::ProcDir proc_;
  kernel::ProcessMemory memory_;
  bool alive_ = true;
};

}  // namespace stasis
