// SPDX-License-Identifier: Apache-2.0
#include "kernel/page_scan.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "kernel/page_size.h"
#include "kernel/raw.h"
#include "kernel/without.h"

namespace stasis::kernel {
namespace {

// struct page_region and struct pm_scan_arg of include/uapi/linux/fs.h.
struct PageRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};
struct ScanArg {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(ScanArg) == 96 && sizeof(PageRegion) == 24);
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArg);
constexpr std::uint64_t kWpMatching = 1;
constexpr std::uint64_t kCheckWpAsync = 2;

// Bits of an entry of /proc/PID/pagemap.
constexpr std::uint64_t kEntrySoftDirty = std::uint64_t{1} << 55;
constexpr std::uint64_t kEntryExclusive = std::uint64_t{1} << 56;  // Linux 4.2
constexpr std::uint64_t kEntryGuard = std::uint64_t{1} << 58;
constexpr std::uint64_t kEntryFile = std::uint64_t{1} << 61;
constexpr std::uint64_t kEntrySwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kEntryPresent = std::uint64_t{1} << 63;

// Ours: only an entry of the file tells.
constexpr std::uint64_t kPageExclusive = std::uint64_t{1} << 63;

void append(std::vector<PageRun>& runs, std::uint64_t start, std::uint64_t end) {
  if (!runs.empty() && runs.back().end == start) {
    runs.back().end = end;
  } else {
    runs.push_back({start, end});
  }
}

std::uint64_t categories_of(std::uint64_t entry) {
  std::uint64_t categories = 0;
  if (entry & kEntryPresent) categories |= kPagePresent;
  if (entry & kEntrySwapped) categories |= kPageSwapped;
  if (entry & kEntryFile) categories |= kPageFile;
  if (entry & kEntrySoftDirty) categories |= kPageSoftDirty;
  if (entry & kEntryGuard) categories |= kPageGuard;
  if (entry & kEntryExclusive) categories |= kPageExclusive;
  return categories;
}

bool matches(std::uint64_t categories, const PageQuery& query) {
  return (query.any_of == 0 || (categories & query.any_of) != 0) && (categories & query.all_of) == query.all_of &&
         (categories & query.none_of) == 0;
}

// Does the ioctl accept this category? An empty range suffices to learn it.
bool knows(int pagemap, std::uint64_t category) {
  PageRegion region{};
  ScanArg arg{};
  arg.size = sizeof arg;
  arg.vec = reinterpret_cast<std::uint64_t>(&region);
  arg.vec_len = 1;
  arg.category_anyof_mask = category;
  arg.return_mask = category;
  return raw_no_fault(SYS_ioctl, pagemap, kPagemapScan, &arg) >= 0;
}

}  // namespace

Result<PageScanner> PageScanner::open(const ProcDir& proc, Method method) {
  PageScanner scanner(proc.pid(), STASIS_TRY(proc.open_file("pagemap", O_RDONLY)));
  scanner.ioctl_ = method == Method::kAuto && !without("pagemap_scan") && knows(scanner.pagemap_.get(), kPagePresent);
  // Bit 58 of pagemap and PAGE_IS_GUARD came together.
  scanner.guard_ = knows(scanner.pagemap_.get(), kPageGuard);
  return scanner;
}

Result<void> PageScanner::scan(std::uint64_t start, std::uint64_t end, const PageQuery& query,
                               std::vector<PageRun>& runs) const {
  if (start % page_size() != 0 || end % page_size() != 0 || start > end) {
    return Error(Errc::kInvalidArgument, fmt::format("{:#x}-{:#x} is no range of whole pages", start, end));
  }
  PageQuery asked = query;
  if (!guard_) asked.none_of &= ~kPageGuard;
  return ioctl_ ? scan_by_ioctl(start, end, 0, asked, runs) : scan_by_reading(start, end, asked, runs);
}

Result<void> PageScanner::scan_by_ioctl(std::uint64_t start, std::uint64_t end, std::uint64_t flags,
                                        const PageQuery& query, std::vector<PageRun>& runs) const {
  static thread_local std::vector<PageRegion> regions(1024);
  ScanArg arg{};
  arg.size = sizeof arg;
  arg.flags = flags;
  arg.end = end;
  arg.vec = reinterpret_cast<std::uint64_t>(regions.data());
  arg.vec_len = regions.size();
  arg.category_inverted = query.none_of;
  arg.category_mask = query.all_of | query.none_of;
  arg.category_anyof_mask = query.any_of;
  // Something must be returned; one category splits the runs least.
  arg.return_mask = query.all_of != 0 ? query.all_of : query.any_of & ~(query.any_of - 1);
  if (arg.return_mask == 0) arg.return_mask = kPagePresent;
  for (std::uint64_t at = start; at < end;) {
    arg.start = at;
    arg.walk_end = at;
    const long got = raw("pagemap_scan", SYS_ioctl, pagemap_.get(), kPagemapScan, &arg);
    if (got < 0) {
      if (errno == EINTR) continue;
      return Error::from_errno(errno, fmt::format("scan pages {:#x}-{:#x} of process {}", at, end, pid_.value()));
    }
    // Linux 6.18 answers a walk_end below regions that it has just reported when the last of them fills the vector
    // exactly: what was reported was walked.
    std::uint64_t walked = arg.walk_end;
    for (std::size_t i = 0; i < static_cast<std::size_t>(got); ++i) {
      append(runs, regions[i].start, regions[i].end);
      walked = std::max(walked, regions[i].end);
    }
    if (walked <= at) {
      return Error(Errc::kVanished, fmt::format("scan pages of process {}: it has no memory left", pid_.value()));
    }
    at = walked;
  }
  return {};
}

Result<void> PageScanner::scan_by_reading(std::uint64_t start, std::uint64_t end, const PageQuery& query,
                                          std::vector<PageRun>& runs) const {
  std::vector<std::uint64_t> entries(std::min<std::uint64_t>((end - start) / page_size(), 32768));
  for (std::uint64_t at = start; at < end;) {
    const std::size_t count = std::min<std::uint64_t>(entries.size(), (end - at) / page_size());
    const std::size_t bytes =
        STASIS_TRY(pread_full(pagemap_.get(), std::as_writable_bytes(std::span(entries).first(count)),
                              static_cast<off_t>(at / page_size() * sizeof(std::uint64_t))));
    if (bytes != count * sizeof(std::uint64_t)) {
      return Error(Errc::kVanished, fmt::format("read pagemap of process {}: it has no memory left", pid_.value()));
    }
    for (std::size_t i = 0; i < count; ++i, at += page_size()) {
      if (matches(categories_of(entries[i]), query)) append(runs, at, at + page_size());
    }
  }
  return {};
}

Result<void> PageScanner::private_pages(const Vma& vma, std::vector<PageRun>& runs) const {
  PageQuery query{.any_of = kPagePresent | kPageSwapped, .none_of = kPagePfnZero | kPageGuard};
  if (vma.file_backed()) query.none_of |= kPageFile;
  if (!ioctl_) query.none_of &= ~kPagePfnZero;
  return scan(vma.start, vma.end, query, runs);
}

Result<void> PageScanner::guard_pages(const Vma& vma, std::vector<PageRun>& runs) const {
  if (!guard_) {
    return Error(Errc::kKernelFeature,
                 fmt::format("guard regions at {:#x} of process {} can't be seen", vma.start, pid_.value()))
        .with_help("Linux 6.15 reports them");
  }
  return scan(vma.start, vma.end, {.all_of = kPageGuard}, runs);
}

Result<void> PageScanner::not_exclusive(std::uint64_t start, std::uint64_t end, std::vector<PageRun>& runs) const {
  return scan_by_reading(start, end, {.any_of = kPagePresent | kPageSwapped, .none_of = kPageExclusive}, runs);
}

Result<void> PageScanner::take_written(std::uint64_t start, std::uint64_t end, std::vector<PageRun>& runs) const {
  if (!ioctl_) {
    return Error(Errc::kKernelFeature, "written pages can't be asked for").with_help("needs PAGEMAP_SCAN, Linux 6.7");
  }
  return scan_by_ioctl(start, end, kWpMatching | kCheckWpAsync, {.all_of = kPageWritten}, runs);
}

}  // namespace stasis::kernel
