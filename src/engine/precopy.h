// SPDX-License-Identifier: Apache-2.0
// Pre-copy: most of a tree's memory is copied while it runs; the freeze is left with what has changed meanwhile.
//
// Each large process is stopped for the moment that it takes to get a userfaultfd from it. It needs no privilege. Small
// processes, shared memory, memory of files and what the kernel can't vouch for are read in the freeze.
#pragma once

#include <map>
#include <memory>

#include "engine/tracked_tree.h"
#include "engine/tree_image.h"
#include "resource/memory/precopied_pages.h"
#include "resource/memory/write_tracker.h"

namespace stasis {

class Precopy {
 public:
  // `place` is where the copies go. `kept`: who tracks the tree from one checkpoint to the next, if anybody; must
  // outlive this, and be asked first in the freeze.
  Precopy(PrecopyPlace place, TrackedTree* kept) : place_(std::move(place)), kept_(kept) {}
  // Bytes that the records of the tree will take at most, about.
  static std::uint64_t room_for_records(const TreeImage& tree);

  // Bytes that would be copied while the tree runs.
  static std::uint64_t worth(const TreeImage& tree);
  // Is any process but the root worth copying? The pages of an image must come in the order of its processes.
  static bool copies_children(const TreeImage& tree);

  // Gets a tracker for every process that is worth one. Returns the bytes that will be copied. What fails for one
  // process leaves that one out. REQUIRES: the tree runs and was looked at.
  Result<std::uint64_t> begin(TreeImage& tree, const Patience& patience);
  // Copies, round after round, until little is left or it does not become less. It gives up early where more than
  // `too_much` bytes are written in a moment.
  static constexpr std::uint64_t kNeverTooMuch = ~std::uint64_t{0};
  Result<void> copy(TreeImage& tree, std::uint64_t too_much, const Patience& patience);
  // Of the last round; about what the freeze will find.
  std::uint64_t last_round_bytes() const { return last_round_; }

  // In the freeze, when all memory was inspected: reads what has changed since. False: that is too much to be held in
  // memory, and must be saved before the tree runs again.
  Result<bool> take(TreeImage& tree);
  // All pages of a process that owns its memory, as they were in the freeze. REQUIRES: take().
  PrecopiedPages& pages_of(const ProcessImage& process) { return *targets_.at(process.pid()).pages; }
  bool in_image() const { return place_.image() != nullptr; }
  // What was copied of processes that are not in the tree any more. REQUIRES: in_image(), take().
  Result<void> drop_the_others();
  // Nobody is tracked for this pre-copy any more.
  void stop_tracking();

 private:
  struct Target {
    std::shared_ptr<WriteTracker> tracker;
    std::optional<kernel::ProcessMemory> memory;
    std::vector<PageRun> shared;  // what others may have as well
    std::unique_ptr<PrecopiedPages> pages;
    std::unique_ptr<PageSource> frozen;
  };

  Result<void> add(ProcessImage& process, std::span<const kernel::Vma> areas, const Patience& patience);
  Result<std::shared_ptr<WriteTracker>> tracker_for(ProcessImage& process, const Patience& patience);
  std::vector<PageRun> untouched(const ProcessImage& process, Target& target) const;
  Result<std::uint64_t> copy_round(const ProcessImage& process, Target& target, std::uint64_t too_much,
                                   const Patience& patience);
  Result<std::uint64_t> copy_sample(const ProcessImage& process, Target& target, std::vector<PageRun>& pages,
                                    const Patience& patience);

  PrecopyPlace place_;
  TrackedTree* kept_;
  std::map<HostPid, Target> targets_;
  std::uint64_t last_round_ = 0;
  bool outrun_ = false;
};

}  // namespace stasis
