// SPDX-License-Identifier: Apache-2.0
// WriteTracker: which pages of a running process are written to, told by the kernel (userfaultfd with WP_ASYNC and
// PAGEMAP_SCAN, Linux 6.7; without privilege as well). The process notices nothing but a short fault at the first write
// to each page. What the kernel can't vouch for (areas that were mapped, moved or replaced since) is not tracked any
// more.
#pragma once

#include <vector>

#include "kernel/page_scan.h"
#include "kernel/proc_dir.h"
#include "kernel/userfaultfd.h"
#include "stasis/image.h"

namespace stasis {

// Does tracking its pages cost less than reading them each time? Private anonymous memory of some size; `vma` is from
// smaps.
bool worth_tracking(const kernel::Vma& vma);

// Owns the userfaultfd: when it goes, nothing of it stays in the process. One thread.
class WriteTracker {
 public:
  // Of a descriptor made in that process and not enabled yet. Nothing is tracked. Errors: kKernelFeature.
  static Result<WriteTracker> enable(kernel::Userfaultfd uffd);

  // Tracks these areas from now on, in whole: every write since this has begun is told by take_written(). Areas that
  // can't be (another userfaultfd has them) are left out.
  Result<void> add(const kernel::ProcDir& proc, std::span<const kernel::Vma> vmas);

  // What was written in the tracked areas since the last call (or add()); `vmas` are the areas of now. Pages that are
  // gone count as written. An error: nothing is known any more, and nothing tracked.
  // If the process runs meanwhile, what changes under our hands drops out of tracked() rather than being missed.
  Result<std::vector<PageRun>> take_written(const kernel::ProcDir& proc, std::span<const kernel::Vma> vmas);

  // From here on what take_written() tells adds up as well: for an image that is a difference to the state of this
  // moment, which is that of the last call.
  void set_base();
  void forget_base();
  // Tracked since set_base() without a gap / of these, what was not written.
  const std::vector<PageRun>& since_base() const { return base_; }
  std::vector<PageRun> unchanged() const;

  // Lets go of the process's memory piece by piece: all at once would hold up its page faults for long.
  void end();

  // Ascending. What lies outside may have been written at any time.
  const std::vector<PageRun>& tracked() const { return tracked_; }

 private:
  explicit WriteTracker(kernel::Userfaultfd uffd) : uffd_(std::move(uffd)) {}
  Result<std::vector<PageRun>> scan(const kernel::ProcDir& proc, std::span<const PageRun> areas);

  kernel::Userfaultfd uffd_;
  std::vector<PageRun> tracked_;
  std::vector<PageRun> base_;
  std::vector<PageRun> written_;  // of base_
};

}  // namespace stasis
