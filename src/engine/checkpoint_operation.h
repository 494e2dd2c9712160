// SPDX-License-Identifier: Apache-2.0
// A checkpoint from beginning to end: checkpoint.cc has its stages, checkpoint_memory.cc what becomes of the memory.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/checkpoint.h"
#include "engine/parent_image.h"
#include "engine/precopy.h"
#include "engine/snapshot.h"
#include "engine/stops_put_off.h"
#include "engine/tree_image.h"
#include "kernel/descriptor_limit.h"
#include "kernel/namespaces.h"
#include "resource/checkpoint_context.h"
#include "resource/object_table.h"
#include "resource/open_file/gather.h"
#include "resource/open_file/mapped_files.h"
#include "resource/seccomp/seccomp.h"
#include "resource/system_v/semaphores_and_queues.h"
#include "stasis/defer_queue.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {

// kSecond: the snapshot of the first did not hold.
enum class Attempt { kFirst, kSecond };

// One checkpoint from beginning to end; a failing stage ends it, and the destructor lets everything run on.
class Checkpoint {
 public:
  Checkpoint(const CheckpointRequest& request, Attempt attempt)
      : request_(request),
        attempt_(attempt),
        patience_(request.timeout, request.cancelled),
        objects_(object_table(ObjectUse::kCheckpoint)) {}
  // On the way out after a failure, too: first the references, then the processes run on, then the memory.
  ~Checkpoint() { drop_references(); }

  Result<CheckpointReport> run();
  // It failed for this, and what was written can be thrown away.
  bool worth_another() const { return snapshot_spoiled_ && request_.output != "-"; }

 private:
  Result<void> stages();
  Error explain(Error error) const;
  void drop_references();
  Result<void> stage(std::string_view name, Result<void> (Checkpoint::*function)());
  Result<void> open_image();
  Result<void> await_lazy_memory();
  Result<void> look();
  Obstacles memory_obstacles() const;
  Result<void> look_at_clocks();
  Result<void> freeze();
  Result<void> inspect();
  Result<void> write_structure();
  Result<void> write_process(ProcessImage& process, CheckpointContext& context);
  Result<void> choose_snapshot();
  Result<void> write_contents();
  Result<void> leave_out_unwritten();
  Result<void> take_snapshot();
  Result<PrecopyPlace> place_for_copies();
  Result<void> copy_beforehand();
  Result<void> forget_copies();
  Result<void> end_structure();
  Result<void> save_copied(ProcessImage& process);
  Result<void> write_pages();
  std::vector<SnapshotMode> ways() const;
  bool in_order(const Snapshot& snapshot) const;
  Result<void> save_what_is_not_held();
  Result<void> save_frozen(ProcessImage& process, std::vector<PageRun> runs);
  Result<void> save_pages(ProcessImage& process, const PageSource& source, std::vector<PageRun> runs);
  Result<void> let_go();
  Result<void> publish();

  const CheckpointRequest& request_;
  Attempt attempt_;
  bool snapshot_spoiled_ = false;
  Patience patience_;
  kernel::DescriptorLimit descriptor_limit_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::optional<std::chrono::steady_clock::time_point> frozen_;
  EnvironmentRecord environment_;
  kernel::TimeShift ahead_of_us_;  // the program's clocks
  OutsideHolders outside_;         // who shares mapped memory with the tree; found before the freeze
  OpenFileTable files_;
  SystemVUsers system_v_users_;
  SeccompTable seccomp_;
  std::optional<StopsPutOff> stops_;  // while the tree waits for us: goes after it
  std::optional<TreeImage> tree_;
  std::optional<ImageWriter> image_;
  std::optional<ParentImage> parent_;
  DeferQueue deferred_;
  DeferQueue farewell_;
  DeferQueue contents_;
  std::unique_ptr<Snapshot> snapshot_;
  std::optional<Precopy> precopy_;
  ObjHash objects_;  // refers to files_, system_v_users_ and the tree: goes first
  CheckpointReport report_;
};

}  // namespace stasis
