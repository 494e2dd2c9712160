// SPDX-License-Identifier: Apache-2.0
// An address space made again: map, fill, finish.
#pragma once

#include <span>
#include <vector>

#include "kernel/process_memory.h"
#include "resource/memory/memory_image.h"
#include "resource/memory/memory_record.h"
#include "resource/restart_context.h"
#include "tracee/call_runner.h"
#include "tracee/new_process.h"

namespace stasis {

// What the object hash holds for an objref of kind::kMemory: the record, and its files opened.
class RestoredMemory : public RestoredObject {
 public:
  // Reads the record from the image, checks it, opens and checks its files.
  static Result<void*> restore(void* context, ObjRef ref);

  const MemoryRecord& record() const { return record_; }
  // Everything this address space occupies.
  void add_ranges(std::vector<std::pair<std::uint64_t, std::uint64_t>>& taken) const;

  // The address space that its forked pages come from; null: it has none.
  const RestoredMemory* origin() const { return origin_; }
  // Is a process cloned from one with the memory of origin() a good start for this one?
  bool can_be_forked() const { return !forked_areas_.empty(); }

  // How the process came to be: kElsewhere: what it has in memory is of no use; kForked: it was cloned from one whose
  // memory was all of origin(). REQUIRES: can_be_forked().
  enum class Start { kElsewhere, kForked };
  // Empties the process (the gate and what it keeps stay) and maps everything. Pages are then written by whoever reads
  // the chunks, and by whoever copies to_copy().
  Result<void> map(CallRunner& calls, const RestartGate& gate, Start start);
  // The forked pages that the process does not have after map().
  std::vector<PageRun> to_copy() const;
  // Is the run inside private mappings of this address space?
  bool holds(const PageRun& run) const;
  // Those of `pages` (of this address space in the image) that may as well come while the program runs: in private
  // anonymous areas that have at least `least` bytes of them. Whole areas are returned, ascending. Not those that a
  // fork brings, here or in `heirs`, and none whose pages must be there for what finish() does.
  std::vector<PageRun> lazy_areas(std::span<const PageRun> pages, std::uint64_t least,
                                  std::span<const RestoredMemory* const> heirs) const;
  // After the last page: final protection, advice, guard regions, locks, and the kernel's idea of the layout. The calls
  // are put together only.
  Result<void> finish(CallRunner& calls) const;
  // Address of a syscall instruction in the restored vdso; 0 if the program had none.
  std::uint64_t syscall_instruction() const;

 private:
  Result<void> check() const;
  Result<void> open_files(RestartContext& context);
  Result<void> set_layout(CallRunner& calls) const;
  const VmaRecord* vdso_code() const;
  Result<void> take_origin(RestartContext& context);
  Result<void> empty(CallRunner& calls, const RestartGate& gate) const;
  Result<void> keep_forked(CallRunner& calls, const RestartGate& gate) const;
  bool is_kept(const VmaRecord& vma) const;

  MemoryRecord record_;
  ForkedPagesRecord forked_;
  const RestoredMemory* origin_ = nullptr;      // in the object hash
  std::vector<const VmaRecord*> forked_areas_;  // of record_.vmas, those with pages that a fork brings; ascending
  Start start_ = Start::kElsewhere;
  Result<void> fetch_objects(RestartContext& context);
  int descriptor_of(const VmaRecord& vma) const;
  bool is_segment(const VmaRecord& vma) const;
  Result<void> attach_segments(CallRunner& calls) const;

  std::vector<UniqueFd> files_;
  std::vector<RestoredMapping*> objects_;  // as record_.objects; they live in the object hash
};

inline constexpr ObjOps kMemoryOps = {kind::kMemory,        "memory",          nullptr,
                                      RestoredObject::drop, checkpoint_memory, RestoredMemory::restore};

}  // namespace stasis
