// SPDX-License-Identifier: Apache-2.0
// The memory of a checkpoint: how it is held still, copied and written.
#include <fcntl.h>

#include <algorithm>
#include <memory>

#include "base/file.h"
#include "base/log.h"
#include "engine/checkpoint_operation.h"
#include "engine/cow_snapshot.h"
#include "engine/fault_point.h"
#include "engine/snapshot_choice.h"
#include "engine/wp_snapshot.h"
#include "image/early_chunks.h"
#include "image/page_runs.h"
#include "resource/memory/page_reader.h"
#include "resource/memory/page_writer.h"
#include "resource/memory/unchanged_pages.h"

namespace stasis {

Result<void> Checkpoint::choose_snapshot() {
  const bool runs_on = request_.after == AfterCheckpoint::kLeaveRunning;
  report_.snapshot = runs_on ? request_.snapshot : SnapshotMode::kFreeze;
  const bool little_is_left = request_.tracked && request_.tracked->has_base();
  if (report_.snapshot == SnapshotMode::kAuto && attempt_ == Attempt::kFirst && image_->seekable() &&
      (little_is_left || Precopy::worth(*tree_) >= kMuchToSave)) {
    report_.snapshot = SnapshotMode::kPrecopy;
  }
  if (report_.snapshot != SnapshotMode::kPrecopy || image_->seekable()) return {};
  return Error(Errc::kRefused, "what was copied beforehand can't be changed again in a stream")
      .with_help("write the image to a file, or choose another --snapshot");
}

// Copies that are compressed, compared or put in order later lie in a file of their own, which goes by itself.
Result<PrecopyPlace> Checkpoint::place_for_copies() {
  if (request_.codec != Codec::kNone || parent_ || Precopy::copies_children(*tree_)) {
    const std::string directory = directory_of(request_.output);
    UniqueFd file = STASIS_TRY(open_at(AT_FDCWD, directory.empty() ? "." : directory, O_TMPFILE | O_RDWR, 0600));
    return PrecopyPlace::in_file(std::move(file));
  }
  STASIS_TRY(EarlyChunks(*image_).reserve_structure(Precopy::room_for_records(*tree_)));
  return PrecopyPlace::in_image(*image_);
}

// All is saved as if nothing had been copied.
Result<void> Checkpoint::forget_copies() {
  const bool in_image = precopy_->in_image();
  precopy_.reset();
  report_.snapshot = request_.snapshot == SnapshotMode::kAuto ? SnapshotMode::kAuto : SnapshotMode::kFreeze;
  return in_image ? EarlyChunks(*image_).forget() : Result<void>();
}

// The program runs, and has all the time.
Result<void> Checkpoint::copy_beforehand() {
  const bool free_to_choose = request_.snapshot == SnapshotMode::kAuto;
  auto place = place_for_copies();
  if (!place && !free_to_choose) return Error(place.error());
  if (!place) {
    report_.snapshot = SnapshotMode::kAuto;
    return {};
  }
  precopy_.emplace(*std::move(place), request_.tracked);
  const std::uint64_t worth_it = STASIS_TRY(precopy_->begin(*tree_, patience_));
  patience_.wait_longer();
  // A program that writes faster than we copy is better served by another snapshot.
  const bool protects = free_to_choose && !request_.tracked && may_take_wp_snapshot(*tree_);
  const std::uint64_t too_much = too_much_written(worth_it, protects);
  if (worth_it != 0) STASIS_TRY(precopy_->copy(*tree_, protects ? too_much : Precopy::kNeverTooMuch, patience_));
  if (free_to_choose && (worth_it == 0 || precopy_->last_round_bytes() > too_much)) {
    precopy_->stop_tracking();
    STASIS_TRY(forget_copies());
  }
  std::destroy_at(&patience_);
  std::construct_at(&patience_, request_.timeout, request_.cancelled);
  return {};
}

Result<void> Checkpoint::save_copied(ProcessImage& process) {
  PrecopiedPages& pages = precopy_->pages_of(process);
  if (!precopy_->in_image()) return save_pages(process, pages, pages.wanted());
  std::vector<PageRun> rest = STASIS_TRY(pages.finish_chunks(process.record().memory, patience_));
  STASIS_TRY(save_pages(process, pages, std::move(rest)));
  return pages.drop_rest();
}

// What is no process's own memory: it has no snapshot.
Result<void> Checkpoint::write_contents() {
  STASIS_TRY(contents_.run(OnError::kStopAtFirst));
  return {};
}

// What the parent has, and nobody wrote since. From here on others may be tracked.
Result<void> Checkpoint::leave_out_unwritten() {
  const ParentImage* const parent = parent_ ? &*parent_ : nullptr;
  const bool go_on = request_.after == AfterCheckpoint::kLeaveRunning;
  const auto found = STASIS_TRY(request_.tracked->leave_out(
      {.tree = *tree_, .image = *image_, .parent = parent, .go_on = go_on, .patience = patience_}));
  report_.tracked = parent_.has_value();
  report_.inherited_pages = found.inherited / environment_.page_size;
  report_.written_pages = found.written / environment_.page_size;
  return {};
}

// Where a protection fails all is written again, which a stream can't be; and an area has one userfaultfd.
std::vector<SnapshotMode> Checkpoint::ways() const {
  if (request_.snapshot != SnapshotMode::kAuto) return {report_.snapshot};
  return ways_to_try(
      {.bytes = report_.pages * environment_.page_size,
       .processes = report_.processes,
       .may_be_protected = attempt_ == Attempt::kFirst && image_->seekable() && request_.tracked == nullptr});
}

Result<void> Checkpoint::take_snapshot() {
  if (precopy_) {
    // Too much to be held in memory: the tree stands until it is written.
    if (!STASIS_TRY(precopy_->take(*tree_))) report_.snapshot = SnapshotMode::kFreeze;
    return {};
  }
  const std::vector<SnapshotMode> all = ways();
  for (const SnapshotMode way : all) {
    report_.snapshot = way;
    if (way == SnapshotMode::kFreeze) return {};
    STASIS_TRY(fault_point(name_of(way)));
    auto taken = way == SnapshotMode::kWp ? take_wp_snapshot(*tree_, patience_) : take_cow_snapshot(*tree_, patience_);
    if (taken && !in_order(**taken)) {
      taken = Error(
          Errc::kRefused,
          "of several processes it does not hold all pages, and a stream takes those of one process after the other");
    }
    if (taken) {
      snapshot_ = *std::move(taken);
      return save_what_is_not_held();
    }
    STASIS_TRY(patience_.check());
    if (all.size() == 1) return std::move(taken).error().note(fmt::format("--snapshot {}", name_of(way)));
    log::info("checkpoint", "no snapshot '{}': {}", name_of(way), taken.error().to_string());
  }
  return {};
}

// What a snapshot does not hold is written before the rest: of the first process only if it goes into a stream.
bool Checkpoint::in_order(const Snapshot& snapshot) const {
  if (image_->seekable()) return true;
  return std::all_of(tree_->processes().begin() + 1, tree_->processes().end(), [&](const auto& process) {
    return !process->owns_memory() || subtract(process->memory().own_pages(), snapshot.held(*process)).empty();
  });
}

Result<void> Checkpoint::save_what_is_not_held() {
  for (const auto& process : tree_->processes()) {
    if (!process->owns_memory()) continue;
    MemoryImage& memory = process->memory();
    STASIS_TRY(save_frozen(*process, memory.take_out(subtract(memory.own_pages(), snapshot_->held(*process)))));
  }
  return {};
}

Result<void> Checkpoint::write_pages() {
  for (const auto& process : tree_->processes()) {
    if (!process->owns_memory()) continue;
    std::vector<PageRun> runs = precopy_ ? std::vector<PageRun>() : process->memory().take_rest();
    if (precopy_) {
      STASIS_TRY(save_copied(*process));
    } else if (snapshot_) {
      const PageSource* const source = STASIS_TRY(snapshot_->pages_of(*process, runs));
      STASIS_TRY(save_pages(*process, *source, std::move(runs)));
    } else {
      STASIS_TRY(save_frozen(*process, std::move(runs)));
    }
  }
  if (snapshot_) snapshot_->end();
  return precopy_ && precopy_->in_image() ? precopy_->drop_the_others() : Result<void>();
}

Result<void> Checkpoint::save_frozen(ProcessImage& process, std::vector<PageRun> runs) {
  if (runs.empty()) return {};
  const PageReader frozen(process.traced().memory(), process.memory().shared_pages());
  return save_pages(process, frozen, std::move(runs));
}

Result<void> Checkpoint::save_pages(ProcessImage& process, const PageSource& source, std::vector<PageRun> runs) {
  const ObjRef object = process.record().memory;
  if (const auto base = parent_ && !request_.tracked ? parent_->memory_of(process.record().pid) : std::nullopt) {
    const std::vector<PageRun> same = STASIS_TRY(find_unchanged(runs, source, *base, patience_));
    STASIS_TRY(image_->inherit(object, same, base->object));
    report_.inherited_pages += total_length(same) / environment_.page_size;
    runs = subtract(runs, same);
  }
  const std::vector<PageRun> zero_if_absent = process.memory().zero_if_absent();
  return stasis::write_pages(
      {.image = *image_, .object = object, .source = source, .zero_if_absent = zero_if_absent, .patience = patience_},
      runs);
}

}  // namespace stasis
