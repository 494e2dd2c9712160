// SPDX-License-Identifier: Apache-2.0
// TreeRestore: all processes of a tree on their way from their records to running. The steps in order: read, make,
// [next_memory, write_pages..., finish_memory], settle_kinship, restore, release. Dropping it ends what was made.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "engine/process_restore.h"
#include "engine/tree_plan.h"

namespace stasis {

class TreeRestore {
 public:
  explicit TreeRestore(RestartContext& context) : context_(context) {}
  TreeRestore(const TreeRestore&) = delete;
  TreeRestore& operator=(const TreeRestore&) = delete;
  ~TreeRestore();

  // Reads all processes of the image and plans. Nothing is made.
  Result<void> read(ImageReader& image, const InheritedState& inherited);

  // Makes the gate and every process that needs no other's memory.
  Result<void> make();
  // The live processes stand in the order of the image, each behind its parent.
  std::size_t size() const { return live_.size(); }
  const ProcessRestore& process(std::size_t index) const { return *live_[index]; }
  ProcessRestore& process(std::size_t index) { return *live_[index]; }
  HostPid root() const { return live_.front()->pid(); }
  // The group that had its terminal, if one had.
  std::optional<HostPid> foreground_group() const;

  // For each process in order: its address space without pages; [its pages]; the rest of it, and the children that need
  // it.
  Result<void> map_memory(std::size_t index);
  Result<void> write_pages(std::size_t index, std::span<const PageRun> runs, std::span<const std::byte> pages) const;
  Result<void> finish_memory(std::size_t index);

  // All processes exist: groups; helpers and the processes that were zombies end.
  Result<void> settle_kinship();
  // Everything but the registers / everything. In between what was put off can be done.
  Result<void> restore();
  Result<void> stand_by();
  void release();

 private:
  Result<void> check_rights() const;
  void find_owners();
  std::vector<bool> who_has_parents_pages() const;
  NewProcess& task(std::size_t node);
  Result<void> bear(std::size_t node);
  Result<NewProcess> create(const TreeNode& node, int report_signal);
  void plan_session(std::size_t node);
  void plan_children(std::size_t node, TreeNode::Birth birth, bool need_memory);
  Result<void> take_steps();
  Result<std::int32_t> unused_pid();
  std::size_t node_with(ImagePid pid) const;
  Result<void> set_groups();
  Result<void> set_group(std::size_t node, ImagePid group);
  Result<void> give_terminals();
  Result<void> end_helpers();
  Result<void> end_zombies();
  Result<void> name_process(NewProcess& process, const std::string& name) const;
  template <class Fill>
  Result<void> call_in_all(std::span<ProcessRestore* const> processes, Fill fill) const;
  Result<void> restore_job_states();
  Result<void> start_calls();
  template <class... Args>
  Result<void> call(std::size_t node, std::string what, long nr, Args... args);

  RestartContext& context_;
  InheritedState inherited_;
  std::vector<ProcessRecord> records_;
  TreePlan plan_;
  std::optional<RestartGate> gate_;
  std::vector<std::unique_ptr<ProcessRestore>> live_;
  std::vector<std::size_t> live_of_;               // index in live_ by node; npos for others
  std::vector<std::size_t> node_of_;               // the reverse
  std::vector<std::optional<NewProcess>> others_;  // by node: zombies and helpers
  // What is to be done with the nodes of the plan, the next step last.
  struct Step {
    enum class Kind { kBear, kSetsid };
    Kind kind;
    std::size_t node;
  };
  std::vector<Step> steps_;
  std::vector<CallRunner> finishing_;  // memory, in small slots of the gate
  std::set<ImagePid> used_;            // pids and tids that no helper may have
  bool was_reaper_ = true;
};

}  // namespace stasis
