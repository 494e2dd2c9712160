// SPDX-License-Identifier: Apache-2.0
// TreePlan: in which order, and from whom, the processes of a tree are born, so that each has the parent, the session,
// the group and the shares it had. Pure: made from records alone.
//
// A new process is in the session of the one it is cloned from, so some children must be cloned before their parent
// makes a session of its own; one that shares memory, after its parent's memory is there. Where the right creator has
// long ended, a helper takes its place for a moment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "resource/process/process_record.h"
#include "resource/restart_context.h"

namespace stasis {

// Whom a node is cloned from; kCoordinator is us.
inline constexpr std::size_t kCoordinator = ~std::size_t{0};

struct TreeNode {
  enum class Kind {
    kProcess,
    kZombie,
    kHelper,  // lives while the tree is made: in place of a session leader or a parent that has ended
  };
  enum class Birth {
    kBeforeSession,  // before the creator makes a session of its own
    kInSession,      // after
  };

  Kind kind = Kind::kProcess;
  ImagePid pid;            // 0 for some helpers: any that the tree does not use
  std::size_t record = 0;  // index of the process's record; meaningless for a helper
  std::size_t creator = kCoordinator;
  Birth birth = Birth::kInSession;
  bool needs_memory = false;          // the creator's memory must be there
  bool forks_memory = false;          // because it has pages of it (copy on write)
  bool leads_session = false;         // calls setsid
  bool late_session = false;          // only after its memory is there
  std::uint64_t flags = 0;            // CLONE_* beside CLONE_PTRACE
  std::vector<std::size_t> children;  // nodes cloned from it
};

struct TreePlan {
  std::vector<TreeNode> nodes;  // nodes[i] is the process of record i; helpers behind them
  bool needs_reaper = false;    // the coordinator must be there for orphans (PR_SET_CHILD_SUBREAPER)

  // Records in the order of the image. `has_parents_pages`: by record, whether it should be cloned when its parent's
  // memory is there; it is where nothing speaks against it. kBadImage: they make no tree; kUnsupportedTask: no order
  // exists.
  static Result<TreePlan> make(std::span<const ProcessRecord> records, SessionPolicy policy,
                               const std::vector<bool>& has_parents_pages = {});
};

// What a tree has of whoever started it: a session and a process group whose leaders are not in the tree, but its root
// is in them. They have no number of their own at a restart; 0 (beyond the tree's pid namespace) is always they.
class Surroundings {
 public:
  explicit Surroundings(std::span<const ProcessRecord> records);
  bool have_session(ImagePid session) const { return !session || session == session_; }
  bool have_group(ImagePid group) const { return !group || group == group_; }

 private:
  ImagePid session_;
  ImagePid group_;
};

}  // namespace stasis
