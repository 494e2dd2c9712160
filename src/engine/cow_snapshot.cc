// SPDX-License-Identifier: Apache-2.0
#include "engine/cow_snapshot.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "engine/fault_point.h"
#include "image/page_runs.h"
#include "tracee/process_copy.h"

namespace stasis {
namespace {

// Where a copy has what the program had when it was made.
Result<std::vector<PageRun>> handed_down(const kernel::ProcDir& copy) {
  std::vector<PageRun> ranges;
  for (const kernel::Vma& vma : STASIS_TRY(copy.smaps())) {
    if (!vma.flags.has(kernel::VmFlag::kWipeOnFork)) append(ranges, {.start = vma.start, .length = vma.size()});
  }
  return ranges;
}

class CopiedPages final : public PageSource {
 public:
  CopiedPages(ProcessCopy copy, HostPid of) : copy_(std::move(copy)), of_(of) {}

  // What the program has kept from its children since we looked is not in here, or zeros.
  Result<void> check(const ProcessImage& process, std::span<const PageRun> wanted) const {
    const auto proc = STASIS_TRY(kernel::ProcDir::open(copy_.pid()));
    const auto scanner = STASIS_TRY(kernel::PageScanner::open(proc));
    if (!scanner.uses_ioctl()) return {};  // then pages of zeros are wanted as well
    std::vector<kernel::PageRun> found;
    for (const kernel::Vma& vma : process.vmas()) {
      if (vma.shared || vma.kernel_special()) continue;
      const kernel::PageQuery query{.any_of = kernel::kPagePresent | kernel::kPageSwapped};
      STASIS_TRY(scanner.scan(vma.start, vma.end, query, found));
    }
    std::vector<PageRun> there;
    for (const kernel::PageRun& run : found) append(there, {.start = run.start, .length = run.size()});
    const std::vector<PageRun> missing = subtract(wanted, there);
    // What is in memory of the copy's own, but without a page, was never written: while writes are tracked the kernel
    // marks such pages, and counts them among those of the program that are swapped out.
    if (missing.empty() || subtract(missing, STASIS_TRY(handed_down(proc))).empty()) return {};
    return Error(Errc::kBusy, fmt::format("process {} was changing what its children get", of_.value()))
        .with_help("try again");
  }
  // Never by the way that would give the copy pages of its own.
  Result<void> read(std::span<const PageRun> runs, std::span<std::byte> bytes) const override {
    std::vector<kernel::RemoteRange> ranges;
    for (const PageRun& run : runs) ranges.push_back({.address = run.start, .size = run.length});
    auto done = copy_.memory().read_shared(ranges, bytes);
    if (done || !copy_.has_ended()) return done;
    return Error(Errc::kNoMemory, fmt::format("the copy of process {} was killed before it was saved", of_.value()))
        .with_help("probably memory ran out; --snapshot freeze takes none");
  }
  void end() { copy_.end(); }

 private:
  ProcessCopy copy_;
  HostPid of_;
};

// What such a copy does not hold as it is now.
std::vector<PageRun> not_in_copies(const ProcessImage& process) {
  using kernel::VmFlag;
  std::vector<PageRun> ranges;
  for (const kernel::Vma& vma : process.vmas()) {
    const bool kept_away = vma.flags.has(VmFlag::kDontCopy) || vma.flags.has(VmFlag::kWipeOnFork);
    if (kept_away || vma.flags.has(VmFlag::kHugeTlb)) append(ranges, {.start = vma.start, .length = vma.size()});
  }
  return ranges;
}

class CowSnapshot final : public Snapshot {
 public:
  std::vector<PageRun> held(const ProcessImage& process) const override {
    const MemoryImage& memory = process.memory();
    return subtract(subtract(memory.own_pages(), not_in_copies(process)), memory.pages_of_files());
  }
  Result<const PageSource*> pages_of(const ProcessImage& process, std::span<const PageRun> wanted) const override {
    const CopiedPages& pages = copies_.at(process.pid());
    STASIS_TRY(pages.check(process, wanted));
    return &pages;
  }
  void end() override {
    for (auto& [pid, copy] : copies_) copy.end();
  }
  // Of several at a time: most of it is the kernel's work.
  Result<void> take(TreeImage& tree, const Patience& patience) {
    std::vector<ProcessImage*> owners;
    for (const auto& process : tree.processes()) {
      if (process->owns_memory()) owners.push_back(process.get());
    }
    for (ProcessImage* const process : owners) STASIS_TRY(process->traced().start_copy(patience));
    for (ProcessImage* const process : owners) {
      STASIS_TRY(fault_point("finish copy"));
      const HostPid pid = process->pid();
      auto copy = STASIS_TRY(process->traced().finish_copy(shared_mappings(*process), patience));
      copies_.try_emplace(pid, std::move(copy), pid);
    }
    return {};
  }

 private:
  // They are not read there, and others count who maps them.
  static std::vector<AddressRange> shared_mappings(const ProcessImage& process) {
    std::vector<AddressRange> ranges;
    for (const kernel::Vma& vma : process.vmas()) {
      if (!vma.shared) continue;
      if (!ranges.empty() && ranges.back().second == vma.start) {
        ranges.back().second = vma.end;
      } else {
        ranges.emplace_back(vma.start, vma.end);
      }
    }
    return ranges;
  }

  std::map<HostPid, CopiedPages> copies_;
};

// Orphans would be children of the tree.
Result<void> find_reaper(const TreeImage& tree) {
  for (const auto& process : tree.processes()) {
    if (process->record().pid != ImagePid(1) && !process->record().attributes.child_subreaper) continue;
    return Error(Errc::kRefused,
                 fmt::format("process {} reaps orphans, and would get a copy as a child that it never had",
                             process->pid().value()));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Snapshot>> take_cow_snapshot(TreeImage& tree, const Patience& patience) {
  STASIS_TRY(find_reaper(tree));
  auto snapshot = std::make_unique<CowSnapshot>();
  STASIS_TRY(snapshot->take(tree, patience));
  return std::unique_ptr<Snapshot>(std::move(snapshot));
}

}  // namespace stasis
