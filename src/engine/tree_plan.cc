// SPDX-License-Identifier: Apache-2.0
#include "engine/tree_plan.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <map>
#include <ranges>

namespace stasis {
namespace {

Error bad(const ProcessRecord& record, std::string_view why) {
  return Error(Errc::kBadImage, fmt::format("process {}: {}", record.pid.value(), why));
}

// A wait status that only the end of a process gives: exit, or a signal that kills by default (man 7 signal).
bool is_an_end(std::int32_t status) {
  constexpr int kCoreDumped = 0x80, kSignalMask = 0x7f;
  if ((status & ~0xff00) == 0) return true;
  const int signal = status & kSignalMask;
  constexpr std::array kHarmless = {SIGCHLD, SIGCONT, SIGURG, SIGWINCH, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
  return (status & ~(kSignalMask | kCoreDumped)) == 0 && signal >= 1 && signal <= 64 &&
         std::ranges::find(kHarmless, signal) == kHarmless.end();
}

// The session of the surroundings has no number in an image.
constexpr ImagePid kAmbient{};

class Planner {
 public:
  Planner(std::span<const ProcessRecord> records, SessionPolicy policy, const std::vector<bool>& has_parents_pages)
      : records_(records), policy_(policy), has_parents_pages_(has_parents_pages) {}
  Result<TreePlan> make();

 private:
  Result<void> check();
  void name_sessions();
  Result<void> share();
  void need_sessions();
  Result<void> place(std::size_t index);
  Result<void> check_births();
  void fork_memory();
  std::size_t parent_of(std::size_t index) const;
  std::size_t helper_for(std::size_t parent, ImagePid session);
  std::size_t leader_of(ImagePid session) const;
  bool is_reaper(std::size_t parent) const;

  std::span<const ProcessRecord> records_;
  SessionPolicy policy_;
  const std::vector<bool>& has_parents_pages_;
  std::vector<std::size_t> born_;                 // each behind its creator
  std::map<ImagePid, std::size_t> index_;         // of a pid
  std::vector<ImagePid> session_;                 // of each process
  std::vector<std::optional<ImagePid>> born_in_;  // the session it must be born in
  std::map<std::pair<std::size_t, ImagePid>, std::size_t> helpers_;
  TreePlan plan_;
};

Result<void> Planner::check() {
  if (records_.empty()) return Error(Errc::kBadImage, "an image without processes");
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const ProcessRecord& record = records_[i];
    if (record.pid.value() <= 0) return bad(record, "it has no pid");
    if (!index_.emplace(record.pid, i).second) return bad(record, "its pid is there twice");
    if (i == 0 && (record.zombie || record.parent)) return bad(record, "it can't be the root");
    if (record.zombie && !is_an_end(record.wait_status)) return bad(record, "it ended in a way that nothing ends");
    if (record.unasked != UnaskedChange::kNone && record.stopped != (record.unasked == UnaskedChange::kStopped)) {
      return bad(record, "it can't both stand and have gone on");
    }
    if (!record.parent) continue;
    const auto parent = index_.find(record.parent);
    if (parent == index_.end()) return bad(record, "its parent does not stand before it");
    if (records_[parent->second].zombie) return bad(record, "its parent has ended");
  }
  return {};
}

std::size_t Planner::parent_of(std::size_t index) const {
  return records_[index].parent ? index_.at(records_[index].parent) : kCoordinator;
}

// With --detach the surroundings' session becomes the root's own.
void Planner::name_sessions() {
  const Surroundings around(records_);
  const ImagePid own = policy_ == SessionPolicy::kDetached ? records_[0].pid : kAmbient;
  for (const ProcessRecord& record : records_) {
    session_.push_back(around.have_session(record.session) ? own : record.session);
  }
}

// A process that shares what clone(2) can share is cloned from one that has it: its parent, or a sibling by
// CLONE_PARENT.
Result<void> Planner::share() {
  struct Kind {
    ObjRef ProcessRecord::* object;
    std::uint64_t flag;
  };
  constexpr std::array kKinds = {Kind{&ProcessRecord::memory, CLONE_VM}, Kind{&ProcessRecord::file_table, CLONE_FILES},
                                 Kind{&ProcessRecord::fs, CLONE_FS}, Kind{&ProcessRecord::sighand, CLONE_SIGHAND}};
  for (const Kind& kind : kKinds) {
    std::map<ObjRef, std::vector<std::size_t>> users;
    for (std::size_t i = 0; i < records_.size(); ++i) {
      if (!records_[i].zombie) users[records_[i].*kind.object].push_back(i);
    }
    for (const auto& [object, all] : users) {
      for (std::size_t k = 1; k < all.size(); ++k) {
        TreeNode& node = plan_.nodes[all[k]];
        const std::size_t parent = parent_of(all[k]);
        const auto creator = std::ranges::find_if(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(k),
                                                  [&](std::size_t i) { return i == parent || parent_of(i) == parent; });
        const bool found = creator != all.begin() + static_cast<std::ptrdiff_t>(k);
        if (!found || (node.creator != parent && node.creator != *creator)) {
          return Error(Errc::kUnsupportedTask,
                       fmt::format("process {} shares memory, descriptors or the like with one that is neither its "
                                   "parent nor its sibling; that can't be restored",
                                   records_[all[k]].pid.value()));
        }
        node.flags |= kind.flag | (*creator == parent ? 0 : std::uint64_t{CLONE_PARENT});
        node.creator = *creator;
        if (kind.flag == CLONE_VM) node.needs_memory = true;
      }
    }
  }
  return {};
}

// From the leaves up: a process is born in its session, or, if it leads that, in the one its children need. (Only one
// can be; children who need others take a helper.)
void Planner::need_sessions() {
  born_in_.resize(records_.size());
  for (std::size_t i = records_.size(); i-- > 0;) {
    if (session_[i] != records_[i].pid) born_in_[i] = session_[i];
    const std::size_t parent = parent_of(i);
    if (parent == kCoordinator || !born_in_[i] || session_[parent] != records_[parent].pid) continue;
    const bool can_be = *born_in_[i] == kAmbient || leader_of(*born_in_[i]) != kCoordinator;
    if (*born_in_[i] != session_[parent] && can_be) born_in_[parent] = born_in_[i];
  }
}

// kCoordinator: it is not in the tree.
std::size_t Planner::leader_of(ImagePid session) const {
  const auto found = index_.find(session);
  return found != index_.end() && session_[found->second] == session ? found->second : kCoordinator;
}

bool Planner::is_reaper(std::size_t parent) const {
  return parent == kCoordinator || records_[parent].attributes.child_subreaper;
}

// Somebody in the session who makes a child of `parent`: by ending, the child goes to `parent`, who reaps orphans.
std::size_t Planner::helper_for(std::size_t parent, ImagePid session) {
  const auto known = helpers_.find({parent, session});
  if (known != helpers_.end()) return known->second;
  const std::size_t leader = leader_of(session);
  TreeNode helper{.kind = TreeNode::Kind::kHelper};
  if (leader != kCoordinator) {
    helper.creator = leader;
  } else {
    helper.creator = parent;
    helper.pid = session;
    helper.leads_session = true;
  }
  plan_.nodes.push_back(helper);
  if (parent == kCoordinator) plan_.needs_reaper = true;
  return helpers_[{parent, session}] = plan_.nodes.size() - 1;
}

Result<void> Planner::place(std::size_t index) {
  TreeNode& node = plan_.nodes[index];
  if (node.flags & CLONE_PARENT) {
    // Born beside a sibling, in its session.
    if (!born_in_[index] || *born_in_[index] == session_[node.creator]) return {};
  }
  const std::size_t parent = parent_of(index);
  const std::optional<ImagePid> needed = born_in_[index];
  const ImagePid parents = parent == kCoordinator ? kAmbient : session_[parent];
  if (!needed || *needed == parents) return {};
  if (parent != kCoordinator && session_[parent] == records_[parent].pid && born_in_[parent] == needed) {
    node.birth = TreeNode::Birth::kBeforeSession;
    return {};
  }
  if (node.flags != 0 || !is_reaper(parent)) {
    return Error(Errc::kUnsupportedTask, fmt::format("process {} is in session {}, which its parent never was in",
                                                     records_[index].pid.value(), needed->value()));
  }
  const std::size_t helper = helper_for(parent, *needed);
  plan_.nodes[index].creator = helper;
  return {};
}

Result<TreePlan> Planner::make() {
  STASIS_TRY(check());
  name_sessions();
  for (std::size_t i = 0; i < records_.size(); ++i) {
    plan_.nodes.push_back({.kind = records_[i].zombie ? TreeNode::Kind::kZombie : TreeNode::Kind::kProcess,
                           .pid = records_[i].pid,
                           .record = i,
                           .creator = parent_of(i),
                           .leads_session = session_[i] == records_[i].pid});
  }
  STASIS_TRY(share());
  need_sessions();
  for (std::size_t i = 0; i < records_.size(); ++i) STASIS_TRY(place(i));
  for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
    const std::size_t creator = plan_.nodes[i].creator;
    if (creator == kCoordinator) continue;
    TreeNode& from = plan_.nodes[creator];
    from.children.push_back(i);
    if (plan_.nodes[i].needs_memory && plan_.nodes[i].birth == TreeNode::Birth::kBeforeSession)
      from.late_session = true;
  }
  STASIS_TRY(check_births());
  fork_memory();
  return std::move(plan_);
}

// Each has a maker who is there before it: no circle of helpers and leaders.
Result<void> Planner::check_births() {
  for (std::size_t i = 0; i < plan_.nodes.size(); ++i) {
    if (plan_.nodes[i].creator == kCoordinator) born_.push_back(i);
  }
  for (std::size_t i = 0; i < born_.size(); ++i) {
    const auto& children = plan_.nodes[born_[i]].children;
    born_.insert(born_.end(), children.begin(), children.end());
  }
  if (born_.size() == plan_.nodes.size()) return {};
  return Error(Errc::kBadImage, "processes of the image could only be made by each other");
}

// Memory is made in the order of the records. Who is cloned only when its parent's is there must not be the creator,
// over however many, of one whose turn has come by then (an orphan that a helper makes). Such a one, and one born
// before its parent leaves the session, gets copies.
void Planner::fork_memory() {
  std::vector<std::size_t> first(plan_.nodes.size());  // the first process among a node and all who come from it
  for (const std::size_t i : born_ | std::views::reverse) {
    TreeNode& node = plan_.nodes[i];
    first[i] = node.kind == TreeNode::Kind::kProcess ? i : plan_.nodes.size();
    for (const std::size_t child : node.children) first[i] = std::min(first[i], first[child]);
    if (node.kind != TreeNode::Kind::kProcess || i >= has_parents_pages_.size() || !has_parents_pages_[i]) continue;
    if (node.creator == kCoordinator || node.creator != parent_of(i) || node.birth != TreeNode::Birth::kInSession ||
        (node.flags & (CLONE_VM | CLONE_PARENT)) != 0 || first[i] <= node.creator) {
      continue;
    }
    node.needs_memory = node.forks_memory = true;
  }
}

}  // namespace

Surroundings::Surroundings(std::span<const ProcessRecord> records) {
  if (records.empty()) return;
  session_ = records.front().session;
  group_ = records.front().process_group;
  for (const ProcessRecord& record : records) {
    // Led from inside, it is the tree's own.
    if (record.pid == session_ && record.session == session_) session_ = {};
    if (record.pid == group_ && record.process_group == group_) group_ = {};
  }
}

Result<TreePlan> TreePlan::make(std::span<const ProcessRecord> records, SessionPolicy policy,
                                const std::vector<bool>& has_parents_pages) {
  return Planner(records, policy, has_parents_pages).make();
}

}  // namespace stasis
