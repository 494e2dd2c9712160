// SPDX-License-Identifier: Apache-2.0
// TrackedTree: from one checkpoint of a tree to the next, which of its pages are written. Those that are not stand in
// the image of the one, and the image of the next refers to them: they are neither read nor compared.
//
//   begin()      which image the next one is a difference to
//   leave_out()  in the freeze: what was written since? Inherits the rest, and tracks what shall be tracked from now on
//   published()  the image of that freeze stands, and is what the next one can be a difference to; else forget()
//
// Between two checkpoints each tracked process has a userfaultfd that this process alone holds (resource/memory/
// write_tracker.h): with us it goes. What nobody vouches for is read, as it would be without us: small processes, areas
// that came, moved or were replaced, shared memory and memory of files, a program that exec'd, or has a userfaultfd of
// its own.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "engine/parent_image.h"
#include "engine/tree_image.h"
#include "resource/memory/write_tracker.h"
#include "stasis/image.h"

namespace stasis {

// The areas whose tracking is worth it. Not those that a child has mostly from its parent: who copies them there would
// save them twice.
std::vector<kernel::Vma> areas_to_track(const ProcessImage& process, bool has_parent);
// Their bytes.
std::uint64_t content_of(std::span<const kernel::Vma> areas);

// One thread.
class TrackedTree {
 public:
  // The image that the next one will be a difference to, if any. What was tracked since another is not known since this
  // one.
  void begin(const ParentImage* parent);
  // Is there an image since which anything was tracked?
  bool has_base() const { return base_.has_value() && tracks_anything(); }
  bool tracks_anything() const;

  // For a pre-copy, which has need of the only userfaultfd that an area may have, and of what it tells. Null: none.
  std::shared_ptr<WriteTracker> tracker_of(HostPid pid) const;
  void take_in(HostPid pid, std::shared_ptr<WriteTracker> tracker);

  struct Found {
    std::uint64_t inherited = 0;  // bytes that are the parent's
    std::uint64_t written = 0;    // bytes of tracked memory that are not
  };
  // Tells what was written, and takes out of the tree's memory, and lets `image` inherit, what was not. `go_on`: from
  // here on everything worth it is tracked. What can't be is logged. REQUIRES: the tree is frozen, its gates are open,
  // the structure is written.
  struct Freeze {
    TreeImage& tree;
    ImageWriter& image;
    const ParentImage* parent;
    bool go_on;
    const Patience& patience;
  };
  Result<Found> leave_out(const Freeze& freeze);

  // Of a process of that freeze: what was tracked and not written since its tracker was asked last.
  const std::vector<PageRun>& untouched(HostPid pid) const;

  void published(const ImageHash& image) { base_ = image; }
  // Nobody is tracked any more.
  void forget();

 private:
  struct Process {
    std::shared_ptr<WriteTracker> tracker;  // null: it could not be tracked
    // As they were found in the freeze.
    std::vector<PageRun> untouched;
    std::vector<PageRun> since_base;
    std::vector<PageRun> unchanged;  // of these
  };
  void look(ProcessImage& process, Process& known);
  Result<void> track(ProcessImage& process, Process& known, bool has_parent, const Patience& patience);

  std::optional<ImageHash> base_;
  std::map<HostPid, Process> processes_;
};

}  // namespace stasis
