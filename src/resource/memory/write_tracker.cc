// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/write_tracker.h"

#include <algorithm>

#include "base/log.h"
#include "image/page_runs.h"

namespace stasis {
namespace {

using kernel::Vma;
using kernel::VmFlag;

// Less is read in the freeze in no time.
constexpr std::uint64_t kWorthIt = std::uint64_t{256} << 10;

PageRun run_of(const Vma& vma) { return {.start = vma.start, .length = vma.size()}; }

}  // namespace

bool worth_tracking(const Vma& vma) {
  // A page of a private file mapping may change with its file, which nobody tells.
  if (vma.shared || vma.file_backed() || vma.kernel_special() || vma.anonymous + vma.swap < kWorthIt) return false;
  for (const VmFlag flag : {VmFlag::kHugeTlb, VmFlag::kDroppable, VmFlag::kPfnMap, VmFlag::kMixedMap, VmFlag::kIo,
                            VmFlag::kUffdMissing, VmFlag::kUffdMinor, VmFlag::kShadowStack}) {
    if (vma.flags.has(flag)) return false;
  }
  return vma.flags.has(VmFlag::kMayWrite);
}

Result<WriteTracker> WriteTracker::enable(kernel::Userfaultfd uffd) {
  using namespace kernel::uffd;
  STASIS_TRY(uffd.enable(kPagefaultWp | kWpUnpopulated | kWpAsync));
  return WriteTracker(std::move(uffd));
}

Result<void> WriteTracker::add(const kernel::ProcDir& proc, std::span<const Vma> vmas) {
  std::vector<PageRun> fresh;
  for (const Vma& vma : vmas) {
    const PageRun area = run_of(vma);
    for (const PageRun& part : subtract(std::span(&area, 1), tracked_)) {
      const kernel::PageRun pages{.start = part.start, .end = part.start + part.length};
      const auto registered = uffd_.register_range(pages, kernel::Userfaultfd::kWriteProtect);
      if (registered) fresh.push_back(part);
      if (!registered) log::debug("tracker", "{}", registered.error().message());
    }
  }
  // What is written before the protection stands is what it is; from then on it is told.
  STASIS_TRY(scan(proc, fresh));
  return {};
}

// Area by area: one that fails half-way has lost what it had told, and is not tracked any more.
Result<std::vector<PageRun>> WriteTracker::scan(const kernel::ProcDir& proc, std::span<const PageRun> areas) {
  const auto scanner = kernel::PageScanner::open(proc);
  std::vector<PageRun> kept, written;
  for (const PageRun& area : areas) {
    if (!scanner) break;
    std::vector<kernel::PageRun> pages;
    const auto taken = scanner->take_written(area.start, area.start + area.length, pages);
    if (!taken) {
      log::debug("tracker", "{:x} is not tracked any more: {}", area.start, taken.error().message());
      continue;
    }
    // What came there since may be another's, who tells nothing to us; ours already is left as it is.
    if (const auto ours = uffd_.register_range({.start = area.start, .end = area.start + area.length},
                                               kernel::Userfaultfd::kWriteProtect);
        !ours) {
      log::debug("tracker", "{}", ours.error().message());
      continue;
    }
    append(kept, area);
    for (const kernel::PageRun& run : pages) append(written, {.start = run.start, .length = run.size()});
  }
  // Those that were looked at earlier stay.
  tracked_ = areas.empty() ? tracked_ : merge(subtract(tracked_, areas), kept);
  if (!scanner) return scanner.error();
  return written;
}

void WriteTracker::end() {
  constexpr std::uint64_t kPiece = std::uint64_t{64} << 20;
  for (const PageRun& area : tracked_) {
    const std::uint64_t end = area.start + area.length;
    for (std::uint64_t at = area.start; at < end; at += kPiece) {
      static_cast<void>(uffd_.unregister({.start = at, .end = std::min(end, at + kPiece)}));
    }
  }
  tracked_.clear();
  forget_base();
  uffd_ = kernel::Userfaultfd();
}

void WriteTracker::set_base() {
  base_ = tracked_;
  written_.clear();
}

void WriteTracker::forget_base() {
  base_.clear();
  written_.clear();
}

Result<std::vector<PageRun>> WriteTracker::take_written(const kernel::ProcDir& proc, std::span<const Vma> vmas) {
  std::vector<PageRun> areas;
  for (const Vma& vma : vmas) {
    // Each area by itself, as its registration is: no joining.
    const PageRun area = run_of(vma);
    const auto parts = intersect(tracked_, std::span(&area, 1));
    areas.insert(areas.end(), parts.begin(), parts.end());
  }
  // What is mapped no more is not looked at, and who comes there is not ours.
  tracked_.clear();
  for (const PageRun& area : areas) append(tracked_, area);
  auto written = scan(proc, areas);
  if (!written) tracked_.clear();
  base_ = intersect(base_, tracked_);
  if (written) written_ = intersect(merge(written_, *written), base_);
  return written;
}

std::vector<PageRun> WriteTracker::unchanged() const { return subtract(base_, written_); }

}  // namespace stasis
