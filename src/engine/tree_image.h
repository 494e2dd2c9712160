// SPDX-License-Identifier: Apache-2.0
// TreeImage: the processes of a checkpoint: who belongs to the tree, the freeze
// of all of them, who shares what with whom, and the end of it.
//
// Order of calls: look() -> freeze() -> [ask the processes] -> resume() or
// kill(). Dropping it lets everything run on.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/process_image.h"
#include "kernel/kcmp.h"
#include "resource/task_obstacles/task_obstacles.h"
#include "stasis/work_queue.h"

namespace stasis {

// A process that has ended and was not waited for.
struct ZombieImage {
  HostPid pid;
  HostPid parent;
  ProcessRecord record;
};

class TreeImage {
 public:
  // Looks at the running tree: the process, all its descendants, and where
  // Stasis made its pid namespace, everybody else in there. Errors: what of
  // their state keeps them from being saved.
  static Result<TreeImage> look(HostPid root);
  TreeImage(TreeImage&&) = default;
  TreeImage& operator=(TreeImage&&) = delete;
  ~TreeImage();

  // Stops every thread of every process, those born meanwhile included. A
  // process that sleeps in vfork is waited for as long as `patience` lasts.
  // What was looked at and has ended meanwhile is forgotten; the root must
  // live.
  Result<void> freeze(const Patience& patience);

  // Parents before their children, the root first.
  const std::vector<std::unique_ptr<ProcessImage>>& processes() const { return processes_; }
  // Valid after freeze().
  const std::vector<ZombieImage>& zombies() const { return zombies_; }
  // What has come up since look(). REQUIRES: frozen.
  Result<Obstacles> find_late_obstacles() const;
  // Opens the gates of all processes and asks them everything. REQUIRES:
  // frozen, find_late_obstacles() found none.
  Result<void> inspect(SeccompTable& seccomp, const OpenFileTable& files, const Patience& patience) const;
  // Finds the pages that children have from their parents. REQUIRES: all
  // processes and their memory have been inspected.
  Result<void> find_forked_pages(const Patience& patience);
  // Fills in the parents of all records. REQUIRES: all processes have been
  // inspected.
  void link_parents();
  // Fills in what parents have not asked for yet. REQUIRES: link_parents().
  Result<void> ask_job_states(const Patience& patience);

  // Everything runs on, each process with `signal` (0: none). Carried through
  // after errors, the first of which is returned.
  Result<void> resume(int signal);
  // The same on the way out of a failure, as far as it is held at all.
  void let_go();
  // Ends everything, children first; each is waited for by its parent, so that
  // no pid is left in use.
  void kill();

 private:
  TreeImage(Observer observer, UsedSemaphores semaphores)
      : observer_(std::move(observer)), semaphores_(std::move(semaphores)) {}
  Result<std::unique_ptr<ProcessImage>> look_at(HostPid pid) const;
  Result<void> add_children(std::vector<HostPid> children);
  Result<void> add_namespace_mates();
  Result<void> attach_new_mates();
  bool has(HostPid pid) const;
  ProcessImage* find(HostPid pid) const;
  Result<void> open_gates(const Patience& patience) const;
  Result<std::optional<HostPid>> freeze_once(const Patience& patience);
  enum class Settled { kStopped, kEnded, kInVfork };
  Result<Settled> settle(std::size_t index, const Patience& patience);
  void sort_by_descent();
  template <class Member>
  Result<void> find_sharers(kernel::KcmpType type, Member member, const std::vector<std::size_t>& candidates);
  Result<void> find_shares();
  Result<void> find_zombies();
  std::vector<std::pair<HostPid, HostPid>> parents() const;
  void reap_in(ProcessImage& parent, ImagePid child);
  void await_helper() const;
  void heed_children() const;

  Observer observer_;
  UsedSemaphores semaphores_;  // when we looked
  std::unique_ptr<RunQueueClocks> clocks_ = std::make_unique<RunQueueClocks>();
  std::vector<std::unique_ptr<ProcessImage>> processes_;
  std::vector<HostPid> ended_;  // seen as zombies
  std::vector<ZombieImage> zombies_;
  // Works on another CPU beside the tracer, where there is enough to do. Refers
  // to the processes: goes first.
  std::unique_ptr<WorkQueue> beside_;
};

}  // namespace stasis
