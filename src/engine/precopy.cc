// SPDX-License-Identifier: Apache-2.0
#include "engine/precopy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "engine/fault_point.h"
#include "engine/stops_put_off.h"
#include "image/page_runs.h"
#include "resource/memory/page_reader.h"
#include "tracee/userfaultfd.h"

namespace stasis {
namespace {

using kernel::Vma;

// A smaller process is read in the freeze in no more time than it takes to make a tracker.
constexpr std::uint64_t kWorthATracker = std::uint64_t{16} << 20;
// So little is read in the freeze within a millisecond or two.
constexpr std::uint64_t kLittle = std::uint64_t{2} << 20;
// So much is copied so soon that little changes meanwhile.
constexpr std::uint64_t kSoonCopied = std::uint64_t{16} << 20;
constexpr int kMostRounds = 8;
// What is written while this much is copied tells how it will go.
constexpr std::uint64_t kSample = std::uint64_t{64} << 20;

// File systems that may read a file straight into the program's pages, whoever asks.
bool may_write_pages_itself(const kernel::Mount& mount) {
  return mount.fs_type.starts_with("fuse") || mount.fs_type == "9p" || mount.fs_type == "virtiofs";
}

// The device writes into memory that was given to it before we protected it, and nobody is told.
bool uses_direct_io(const kernel::ProcDir& proc) {
  const auto fds = proc.fds();
  const auto mounts = proc.mounts();
  if (!fds || !mounts) return true;
  return std::ranges::any_of(*fds, [&](int fd) {
    const auto info = proc.fdinfo(fd);
    if (!info) return false;
    const auto mount = std::ranges::find(*mounts, info->mnt_id, &kernel::Mount::id);
    return (info->flags & O_DIRECT) != 0 || (mount != mounts->end() && may_write_pages_itself(*mount));
  });
}

Result<WriteTracker> make_tracker(ProcessImage& process, const Patience& patience) {
  const auto memory = STASIS_TRY(kernel::ProcessMemory::open(process.proc()));
  const std::vector<Vma> before = process.vmas();
  Gadgets gadgets = find_gadgets(memory, before);
  const StopsPutOff stops;
  auto uffd = [&]() -> Result<kernel::Userfaultfd> {
    STASIS_TRY(process.attach());
    STASIS_TRY(process.settle(patience, [] {}));
    STASIS_TRY(process.refresh_mappings());
    if (!kernel::same_layout(before, process.vmas())) gadgets = find_gadgets(process.traced().memory(), process.vmas());
    STASIS_TRY(process.traced().open_gate(gadgets, process.vmas(), patience));
    return make_userfaultfd_in(process.traced(), kernel::UffdFaults::kUserMode, patience);
  }();
  process.let_go();
  return WriteTracker::enable(STASIS_TRY(std::move(uffd)));
}

// The pages with content of their own in these areas.
Result<std::vector<PageRun>> pages_in(const kernel::ProcDir& proc, std::span<const PageRun> areas) {
  const auto scanner = STASIS_TRY(kernel::PageScanner::open(proc));
  std::vector<kernel::PageRun> pages;
  for (const PageRun& area : areas) {
    Vma vma;
    vma.start = area.start;
    vma.end = area.start + area.length;
    STASIS_TRY(scanner.private_pages(vma, pages));
  }
  std::vector<PageRun> runs;
  for (const kernel::PageRun& run : pages) append(runs, {.start = run.start, .length = run.size()});
  return runs;
}

std::vector<PageRun> shared_with_others(const kernel::ProcDir& proc, std::span<const Vma> areas) {
  const auto scanner = kernel::PageScanner::open(proc);
  std::vector<kernel::PageRun> pages;
  for (const Vma& vma : areas) {
    if (scanner && vma.mapped_elsewhere != 0) static_cast<void>(scanner->not_exclusive(vma.start, vma.end, pages));
  }
  std::vector<PageRun> runs;
  for (const kernel::PageRun& run : pages) append(runs, {.start = run.start, .length = run.size()});
  return runs;
}

// What we may hold of other programs' memory.
std::uint64_t memory_for_us() {
  const long pages = ::sysconf(_SC_AVPHYS_PAGES), size = ::sysconf(_SC_PAGESIZE);
  return std::max(std::uint64_t{64} << 20, static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(size) / 2);
}

}  // namespace

// ---- while the tree runs ----

std::uint64_t Precopy::worth(const TreeImage& tree) {
  std::uint64_t sum = 0;
  for (const auto& process : tree.processes()) {
    const std::uint64_t content = content_of(areas_to_track(*process, process != tree.processes().front()));
    if (content >= kWorthATracker) sum += content;
  }
  return sum;
}

bool Precopy::copies_children(const TreeImage& tree) {
  return std::any_of(tree.processes().begin() + 1, tree.processes().end(),
                     [](const auto& process) { return content_of(areas_to_track(*process, true)) >= kWorthATracker; });
}

Result<std::uint64_t> Precopy::begin(TreeImage& tree, const Patience& patience) {
  std::uint64_t bytes = 0;
  for (const auto& process : tree.processes()) {
    const std::vector<Vma> areas = areas_to_track(*process, process != tree.processes().front());
    const bool tracked = kept_ != nullptr && kept_->tracker_of(process->pid()) != nullptr;
    if ((content_of(areas) < kWorthATracker && !tracked) || uses_direct_io(process->proc())) continue;
    STASIS_TRY(patience.check());
    STASIS_TRY(fault_point("make a tracker"));
    if (auto added = add(*process, areas, patience); !added) {
      log::debug("precopy", "process {} is read in the freeze: {}", process->pid().value(), added.error().message());
      STASIS_TRY(patience.check());
      continue;
    }
    bytes += content_of(areas);
  }
  return bytes;
}

Result<void> Precopy::add(ProcessImage& process, std::span<const Vma> areas, const Patience& patience) {
  Target target;
  target.tracker = STASIS_TRY(tracker_for(process, patience));
  target.memory = STASIS_TRY(kernel::ProcessMemory::open(process.proc()));
  STASIS_TRY(target.tracker->add(process.proc(), areas));
  target.shared = shared_with_others(process.proc(), areas);
  target.pages = std::make_unique<PrecopiedPages>(place_);
  targets_.emplace(process.pid(), std::move(target));
  return {};
}

Result<std::shared_ptr<WriteTracker>> Precopy::tracker_for(ProcessImage& process, const Patience& patience) {
  if (auto tracker = kept_ ? kept_->tracker_of(process.pid()) : nullptr) {
    STASIS_TRY(tracker->take_written(process.proc(), process.vmas()));
    // Otherwise it runs another program now.
    if (!tracker->tracked().empty()) return tracker;
  }
  auto tracker = std::make_shared<WriteTracker>(STASIS_TRY(make_tracker(process, patience)));
  if (kept_) kept_->take_in(process.pid(), tracker);
  return tracker;
}

// Copies some of the pages and leaves in those that must be copied still; returns the bytes written meanwhile.
Result<std::uint64_t> Precopy::copy_sample(const ProcessImage& process, Target& target, std::vector<PageRun>& pages,
                                           const Patience& patience) {
  STASIS_TRY(fault_point("copy a sample"));
  const std::vector<PageRun> sample = cut(pages, kSample).front();
  STASIS_TRY(target.pages->copy(PageReader(*target.memory, target.shared), sample, patience));
  const std::vector<Vma> now = STASIS_TRY(process.proc().maps());
  const std::vector<PageRun> written = STASIS_TRY(target.tracker->take_written(process.proc(), now));
  target.pages->forget(written);
  const std::vector<PageRun> there = STASIS_TRY(pages_in(process.proc(), target.tracker->tracked()));
  pages = intersect(merge(subtract(pages, sample), written), there);
  return total_length(intersect(written, there));
}

// Returns the bytes copied.
Result<std::uint64_t> Precopy::copy_round(const ProcessImage& process, Target& target, std::uint64_t too_much,
                                          const Patience& patience) {
  const bool first = target.pages->copied().empty();
  // What is in the parent image is not wanted.
  std::vector<PageRun> changed = subtract(target.tracker->tracked(), target.tracker->unchanged());
  if (!first) {
    const std::vector<Vma> now = STASIS_TRY(process.proc().maps());
    changed = STASIS_TRY(target.tracker->take_written(process.proc(), now));
    target.pages->forget(changed);
  }
  if (uses_direct_io(process.proc())) target.tracker.reset();
  if (!target.tracker) return 0;
  const std::vector<PageRun> there = STASIS_TRY(pages_in(process.proc(), target.tracker->tracked()));
  changed = intersect(changed, there);
  if (first && too_much != kNeverTooMuch && total_length(changed) > 2 * kSample) {
    const std::uint64_t written = STASIS_TRY(copy_sample(process, target, changed, patience));
    log::debug("precopy", "{} KiB written while {} were copied", written >> 10, kSample >> 10);
    outrun_ = written > std::max(too_much, kSample / 2);
    if (outrun_) return written;
  }
  STASIS_TRY(target.pages->copy(PageReader(*target.memory, target.shared), changed, patience));
  return total_length(changed);
}

Result<void> Precopy::copy(TreeImage& tree, std::uint64_t too_much, const Patience& patience) {
  for (int round = 0; round < kMostRounds; ++round) {
    const std::uint64_t before = last_round_;
    last_round_ = 0;
    for (const auto& process : tree.processes()) {
      const auto found = targets_.find(process->pid());
      if (found == targets_.end() || !found->second.tracker) continue;
      STASIS_TRY(patience.check());
      STASIS_TRY(fault_point("copy pages"));
      const auto copied = copy_round(*process, found->second, too_much, patience);
      if (copied) {
        last_round_ += *copied;
        if (outrun_) return {};
        continue;
      }
      STASIS_TRY(patience.check());
      // It has ended, or become another program.
      if (copied.error().code() != Errc::kVanished && copied.error().code() != Errc::kIo) return copied.error();
      log::debug("precopy", "process {}: {}", process->pid().value(), copied.error().message());
      found->second.tracker.reset();
    }
    log::debug("precopy", "round {}: {} KiB", round, last_round_ >> 10);
    if (last_round_ <= (round == 0 ? kSoonCopied : kLittle) || (round > 0 && last_round_ > before / 2)) break;
  }
  return {};
}

std::uint64_t Precopy::room_for_records(const TreeImage& tree) {
  constexpr std::uint64_t kPerMapping = 512, kPerThread = 24 << 10, kPerFile = 1024;
  // What is left over costs nothing but to be read.
  std::uint64_t room = std::uint64_t{1} << 20;
  for (const auto& process : tree.processes()) {
    // One that is ending has none.
    const auto threads = process->proc().threads();
    const auto fds = process->proc().fds();
    room += kPerMapping * process->vmas().size();
    if (threads) room += kPerThread * threads->size();
    if (fds) room += kPerFile * fds->size();
  }
  return room;
}

// ---- in the freeze ----

std::vector<PageRun> Precopy::untouched(const ProcessImage& process, Target& target) const {
  if (!target.tracker || uses_direct_io(process.proc())) return {};
  if (kept_) return kept_->untouched(process.pid());
  const auto written = target.tracker->take_written(process.proc(), process.vmas());
  return written ? subtract(target.tracker->tracked(), *written) : std::vector<PageRun>();
}

Result<bool> Precopy::take(TreeImage& tree) {
  std::uint64_t changed = 0;
  for (const auto& process : tree.processes()) {
    if (!process->owns_memory()) continue;
    Target& target = targets_[process->pid()];
    if (!target.pages) target.pages = std::make_unique<PrecopiedPages>(place_);
    const std::vector<PageRun> unchanged = untouched(*process, target);
    target.frozen = std::make_unique<PageReader>(process->traced().memory(), process->memory().shared_pages());
    target.pages->read_changed_from(*target.frozen);
    changed += target.pages->settle(process->memory().take_rest(), unchanged);
  }
  log::debug("precopy", "{} KiB in the freeze", changed >> 10);
  STASIS_TRY(fault_point("keep what has changed"));
  if (changed > memory_for_us()) return false;
  for (auto& [pid, target] : targets_) {
    if (target.frozen) STASIS_TRY(target.pages->keep());
  }
  return true;
}

Result<void> Precopy::drop_the_others() {
  for (auto& [pid, target] : targets_) {
    if (!target.frozen) STASIS_TRY(target.pages->drop_rest());
  }
  return {};
}

void Precopy::stop_tracking() {
  for (auto& [pid, target] : targets_) {
    if (target.tracker && !kept_) target.tracker->end();
    target.tracker.reset();
  }
}

}  // namespace stasis
