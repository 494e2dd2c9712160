// SPDX-License-Identifier: Apache-2.0
// An address space as a checkpoint sees it: its record, and which of its pages must be saved.
#pragma once

#include <utility>
#include <vector>

#include "kernel/page_scan.h"
#include "kernel/proc_dir.h"
#include "kernel/process_memory.h"
#include "resource/checkpoint_context.h"
#include "resource/kinds.h"
#include "resource/memory/forked_pages.h"
#include "resource/memory/memory_record.h"
#include "resource/obstacle.h"
#include "stasis/image.h"
#include "tracee/patience.h"

namespace stasis {

// What a mapping is to a checkpoint.
struct MemoryFacts {
  HostPid pid;
  std::vector<kernel::Vma> vmas;  // from smaps, without our gate
  kernel::ProcStat stat;
  std::uint64_t brk = 0;  // asked inside the process
};

// Everything about the mappings that can't be saved. Looks only, works on a running process.
Obstacles find_memory_obstacles(HostPid pid, const std::vector<kernel::Vma>& vmas);

// One address space during a checkpoint; its address is its key in the object hash.
class MemoryImage {
 public:
  // Fills the record from facts and /proc (auxv, exe, the mapped files' identity) and selects the pages. The process is
  // stopped.
  static Result<MemoryImage> take(const kernel::ProcDir& proc, const kernel::ProcessMemory& memory, MemoryFacts facts,
                                  const OpenFileTable& files);

  // Pages that are `parent`'s: they are not saved a second time. REQUIRES: `parent` lives at least as long, and stands
  // before this one in the image.
  void take_from(const MemoryImage& parent, std::vector<PageRun> pages);
  // Everything that a restart must bring back, what it has from others as well; ascending.
  const std::vector<PageRun>& pages() const { return pages_; }
  // Of these, what other processes may have as well (copy on write).
  const std::vector<PageRun>& shared_pages() const { return shared_; }

  // Where it would read zeros if nothing was brought back; ascending.
  std::vector<PageRun> zero_if_absent() const;

  // Its objects have no objref yet.
  const MemoryRecord& record() const { return record_; }
  // Writes what the mappings share with others, then the record.
  Result<void> checkpoint(CheckpointContext& context, ObjRef ref) const;
  std::uint64_t page_bytes() const { return record_.page_bytes; }
  // Of these, what may be a file's, which others can change while the process stands.
  const std::vector<PageRun>& pages_of_files() const { return of_files_; }
  // Its own (not from a parent process), which nobody has taken out yet.
  const std::vector<PageRun>& own_pages() const { return runs_; }
  // Those of its own pages that lie in `ranges`: they are the caller's to save from now on.
  std::vector<PageRun> take_out(std::span<const PageRun> ranges);
  // All others.
  std::vector<PageRun> take_rest() { return std::exchange(runs_, {}); }

 private:
  MemoryRecord record_;
  std::vector<OpenInode*> objects_;  // as record_.objects
  std::vector<PageRun> pages_;       // ascending
  std::vector<PageRun> shared_;      // of these
  std::vector<PageRun> of_files_;    // of these
  std::vector<PageRun> runs_;        // of these, what stands in the image as its own and nobody has taken out yet
  const MemoryImage* origin_ = nullptr;
  std::vector<PageRun> forked_;  // those that are origin_'s
};

// Object = MemoryImage*.
inline Result<void> checkpoint_memory(void* context, ObjRef ref, void* object) {
  return static_cast<MemoryImage*>(object)->checkpoint(CheckpointContext::of(context), ref);
}

}  // namespace stasis
