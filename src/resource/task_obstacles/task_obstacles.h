// SPDX-License-Identifier: Apache-2.0
// What keeps a process from being saved that is neither a file nor a mapping: its state, who watches it, what it is
// confined by, where it lives. Looks from outside, stops nothing; the process may change meanwhile, so what it can
// change unseen is looked at again once it stands.
//
// Used by `stasis check PID` and by a checkpoint before it freezes. Costs some 0.2 ms for the process and 20 us per
// thread. (Mappings: find_memory_obstacles(); files: collect_obstacles().)
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "kernel/idle_child.h"
#include "kernel/proc_dir.h"
#include "resource/obstacle.h"
#include "resource/task_obstacles/observer.h"
#include "stasis/result.h"

namespace stasis {

// What a process's executable says about the kind of machine code.
enum class ProgramKind { kUnknown, kNative, kForeign };

struct ThreadFacts {
  HostPid tid;
  char state = '?';
  std::int32_t tracer = 0;
  std::uint32_t seccomp = 0;
  bool shadow_stack = false;
};

struct ExecutableId {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool operator==(const ExecutableId&) const = default;
};

// Everything that find_task_obstacles() judges by. Plain facts, so that tests can make them up.
struct TaskFacts {
  HostPid pid;
  bool kernel_thread = false;
  bool ending = false;      // the main thread is on its way out, or a zombie
  bool accessible = false;  // ptrace would be permitted
  bool dumpable = true;
  bool core_dumping = false;
  std::uint32_t uid = 0;
  std::uint64_t permitted = 0;  // capabilities
  // From here on only where accessible.
  std::vector<ThreadFacts> threads;  // live ones and a zombie leader
  ProgramKind program = ProgramKind::kUnknown;
  NamespaceIds namespaces{};
  // Where the pid namespace is not ours: name and namespaces of its process 1, if that is an ancestor.
  std::string init_name;
  NamespaceIds init_namespaces{};
  ExecutableId executable;
  std::string lost_executable;  // the path that no longer leads to the program it runs; empty: it does
  bool semaphore_undo = false;
  std::vector<kernel::PosixTimer> timers;
  std::vector<ImagePid> tids;  // in its own pid namespace

  // Are there memory and files to look at, and may we?
  bool has_contents() const { return accessible && !kernel_thread && !ending; }
};

// The sets of semaphores in our namespace that anybody ever operated on, now; and somebody who has no list of undo
// values, to compare with. May be used by several threads at once.
class UsedSemaphores {
 public:
  struct Set {
    int id = -1;
    int size = 0;
    std::int64_t operated_at = 0;  // seconds since the Epoch
  };
  static Result<UsedSemaphores> look();
  std::span<const Set> sets() const { return sets_; }
  // REQUIRES: there are sets.
  HostPid without_list() const { return without_list_->pid(); }

 private:
  std::vector<Set> sets_;
  std::optional<kernel::IdleChild> without_list_;
};

// The name (comm) of process 1 in a pid namespace that a restart made.
inline constexpr std::string_view kInitName = "stasis-init";

// Errors: kVanished, kSystem. Lack of rights is a fact, no error.
Result<TaskFacts> look_at_task(const kernel::ProcDir& proc, const Observer& observer, const UsedSemaphores& semaphores);
// Of one whose threads (so many) stand and are traced by ourselves, with `status`: only what it could have changed
// since it was looked at, with the result `before`, and what a program that it has just run (execve) brought with it.
// Without timers.
struct FrozenTask {
  const kernel::ProcDir& proc;
  const kernel::ProcStatus& status;
  std::size_t threads;
  const TaskFacts& before;
};
Result<TaskFacts> look_at_frozen_task(const FrozenTask& task, const Observer& observer,
                                      const UsedSemaphores& semaphores);
// Pure.
Obstacles find_task_obstacles(const TaskFacts& facts, const Observer& observer);
// Both.
Result<Obstacles> find_task_obstacles(const kernel::ProcDir& proc, const Observer& observer);

}  // namespace stasis
