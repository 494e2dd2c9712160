// SPDX-License-Identifier: Apache-2.0
// PageScanner: which pages of a process hold something, by the PAGEMAP_SCAN ioctl (Linux 6.7) or, without it, by
// reading /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
//
// The ioctl costs 2-5 ms for 4 GiB, reading pagemap 80 ms. Asking for the FILE category makes the ioctl as slow as
// reading, since it then looks at every page's descriptor: it is asked for only where file-backed private memory needs
// it. Guard regions look like swapped pages and must be excluded: reading them fails.
//
// The fallback does not see the zero page (it costs privilege), so it reports pages that were only read as well; they
// hold zeros. A kernel with guard regions that can't report them (6.13, 6.14) reports them as swapped by either way.
#pragma once

#include <cstdint>
#include <vector>

#include "base/unique_fd.h"
#include "kernel/proc_dir.h"
#include "kernel/proc_maps.h"
#include "stasis/result.h"

namespace stasis::kernel {

// PAGE_IS_* of include/uapi/linux/fs.h.
inline constexpr std::uint64_t kPageWpAllowed = 1 << 0;
inline constexpr std::uint64_t kPageWritten = 1 << 1;
inline constexpr std::uint64_t kPageFile = 1 << 2;  // file-backed or shared: no private copy
inline constexpr std::uint64_t kPagePresent = 1 << 3;
inline constexpr std::uint64_t kPageSwapped = 1 << 4;
inline constexpr std::uint64_t kPagePfnZero = 1 << 5;
inline constexpr std::uint64_t kPageHuge = 1 << 6;
inline constexpr std::uint64_t kPageSoftDirty = 1 << 7;
inline constexpr std::uint64_t kPageGuard = 1 << 8;  // Linux 6.15

// Adjacent pages, in bytes, end exclusive.
struct PageRun {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t size() const { return end - start; }
  bool operator==(const PageRun&) const = default;
};

// Pages that have one of `any_of` (0: no condition), all of `all_of` and none of `none_of`.
struct PageQuery {
  std::uint64_t any_of = 0;
  std::uint64_t all_of = 0;
  std::uint64_t none_of = 0;
};

// Owns a descriptor of /proc/PID/pagemap. Calls from several threads are fine.
class PageScanner {
 public:
  enum class Method { kAuto, kPagemapFile };

  // kAuto: the ioctl where the kernel has it and STASIS_WITHOUT does not name pagemap_scan. kNotOwner without rights.
  static Result<PageScanner> open(const ProcDir& proc, Method method = Method::kAuto);

  bool uses_ioctl() const { return ioctl_; }
  // Are guard regions told apart from swapped pages?
  bool sees_guard() const { return guard_; }

  // Appends the runs of [start, end) that match, in ascending order, joined where they touch (also to the last run
  // already there). Addresses are page-aligned. The fallback knows PRESENT, SWAPPED, FILE, SOFT_DIRTY and GUARD only:
  // other categories are taken as not set. Process gone: kVanished.
  Result<void> scan(std::uint64_t start, std::uint64_t end, const PageQuery& query, std::vector<PageRun>& runs) const;

  // The pages of a private area that must be saved: those with content of their own.
  Result<void> private_pages(const Vma& vma, std::vector<PageRun>& runs) const;
  // Guard regions in the area. kKernelFeature where they can't be seen.
  Result<void> guard_pages(const Vma& vma, std::vector<PageRun>& runs) const;

  // Pages of the range that another address space may have as well: present and not mapped here alone, or swapped out
  // (which does not tell). A hint: what is not among them is no one else's. Reads /proc/PID/pagemap, 20 ns per page.
  Result<void> not_exclusive(std::uint64_t start, std::uint64_t end, std::vector<PageRun>& runs) const;

  // Pages written since the last call, under an asynchronous write-protecting userfaultfd (UFFD_FEATURE_WP_ASYNC);
  // protects them again. Not registered there: kNotPermitted. Needs the ioctl: kKernelFeature without.
  Result<void> take_written(std::uint64_t start, std::uint64_t end, std::vector<PageRun>& runs) const;

 private:
  PageScanner(HostPid pid, UniqueFd pagemap) : pid_(pid), pagemap_(std::move(pagemap)) {}
  Result<void> scan_by_ioctl(std::uint64_t start, std::uint64_t end, std::uint64_t flags, const PageQuery& query,
                             std::vector<PageRun>& runs) const;
  Result<void> scan_by_reading(std::uint64_t start, std::uint64_t end, const PageQuery& query,
                               std::vector<PageRun>& runs) const;

  HostPid pid_;
  UniqueFd pagemap_;
  bool ioctl_ = false;
  bool guard_ = false;
};

}  // namespace stasis::kernel
