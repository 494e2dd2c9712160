// SPDX-License-Identifier: Apache-2.0
#include "engine/tracked_tree.h"

#include <algorithm>

#include "base/log.h"
#include "engine/fault_point.h"
#include "image/page_runs.h"
#include "tracee/userfaultfd.h"

namespace stasis {
namespace {

using kernel::Vma;

// Less is read in the freeze in no more time than it takes to make a tracker.
constexpr std::uint64_t kWorthATracker = std::uint64_t{1} << 20;

}  // namespace

std::vector<Vma> areas_to_track(const ProcessImage& process, bool has_parent) {
  std::vector<Vma> areas;
  for (const Vma& vma : process.vmas()) {
    if (worth_tracking(vma) && (!has_parent || vma.mapped_elsewhere < vma.rss / 4)) areas.push_back(vma);
  }
  return areas;
}

std::uint64_t content_of(std::span<const Vma> areas) {
  std::uint64_t sum = 0;
  for (const Vma& vma : areas) sum += vma.anonymous + vma.swap;
  return sum;
}

void TrackedTree::begin(const ParentImage* parent) {
  if (parent != nullptr && base_ == parent->hash()) return;
  base_.reset();
  for (auto& [pid, known] : processes_) {
    if (known.tracker) known.tracker->forget_base();
  }
}

bool TrackedTree::tracks_anything() const {
  return std::ranges::any_of(processes_, [](const auto& entry) { return entry.second.tracker != nullptr; });
}

std::shared_ptr<WriteTracker> TrackedTree::tracker_of(HostPid pid) const {
  const auto found = processes_.find(pid);
  return found == processes_.end() ? nullptr : found->second.tracker;
}

void TrackedTree::take_in(HostPid pid, std::shared_ptr<WriteTracker> tracker) {
  processes_[pid] = {.tracker = std::move(tracker), .untouched = {}, .since_base = {}, .unchanged = {}};
}

// ---- in the freeze ----

void TrackedTree::look(ProcessImage& process, Process& known) {
  const auto written = known.tracker->take_written(process.proc(), process.vmas());
  if (written) {
    known.untouched = subtract(known.tracker->tracked(), *written);
    known.since_base = known.tracker->since_base();
    known.unchanged = known.tracker->unchanged();
  } else {
    log::debug("tracked", "process {}: {}", process.pid().value(), written.error().message());
  }
  // It runs another program, or its memory is all new.
  if (known.tracker->tracked().empty()) known.tracker.reset();
}

// Nothing that a device writes is on its way while every thread is stopped and asynchronous I/O refused: unlike the
// pre-copy's, this is no matter of O_DIRECT.
Result<void> TrackedTree::track(ProcessImage& process, Process& known, bool has_parent, const Patience& patience) {
  const std::vector<Vma> areas = areas_to_track(process, has_parent);
  if (!known.tracker) {
    if (content_of(areas) < kWorthATracker) return {};
    STASIS_TRY(fault_point("track from now on"));
    auto uffd = STASIS_TRY(make_userfaultfd_in(process.traced(), kernel::UffdFaults::kUserMode, patience));
    known.tracker = std::make_shared<WriteTracker>(STASIS_TRY(WriteTracker::enable(std::move(uffd))));
  }
  return known.tracker->add(process.proc(), areas);
}

Result<TrackedTree::Found> TrackedTree::leave_out(const Freeze& freeze) {
  Found found;
  std::map<HostPid, Process> now;
  const auto& processes = freeze.tree.processes();
  for (const auto& process : processes) {
    if (!process->owns_memory()) continue;
    Process known;
    known.tracker = tracker_of(process->pid());
    if (known.tracker) look(*process, known);

    const bool has_parent = process != processes.front();
    MemoryImage& memory = process->memory();
    if (const auto base = freeze.parent ? freeze.parent->memory_of(process->record().pid) : std::nullopt) {
      const std::vector<PageRun> there = STASIS_TRY(base->parent->page_runs(base->object));
      const std::vector<PageRun> same = memory.take_out(intersect(known.unchanged, there));
      STASIS_TRY(freeze.image.inherit(process->record().memory, same, base->object));
      // Zeros are in no image. (A child's page may not be there because it was its parent's.)
      if (!has_parent) memory.take_out(intersect(known.unchanged, memory.zero_if_absent()));
      found.inherited += total_length(same);
      found.written += total_length(intersect(memory.own_pages(), known.since_base));
    }

    if (freeze.go_on) {
      if (const auto tracked = track(*process, known, has_parent, freeze.patience); !tracked) {
        STASIS_TRY(freeze.patience.check());
        log::info("tracked", "process {} is read as a whole the next time: {}", process->pid().value(),
                  tracked.error().message());
        known.tracker.reset();
      }
    }
    if (known.tracker) known.tracker->set_base();
    now.emplace(process->pid(), std::move(known));
  }
  processes_ = std::move(now);
  return found;
}

const std::vector<PageRun>& TrackedTree::untouched(HostPid pid) const {
  static const std::vector<PageRun> kNothing;
  const auto found = processes_.find(pid);
  return found == processes_.end() ? kNothing : found->second.untouched;
}

void TrackedTree::forget() {
  base_.reset();
  for (auto& [pid, known] : processes_) {
    if (known.tracker) known.tracker->end();
  }
  processes_.clear();
}

}  // namespace stasis
