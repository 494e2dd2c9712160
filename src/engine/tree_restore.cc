// SPDX-License-Identifier: Apache-2.0
#include "engine/tree_restore.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <ranges>
#include <set>

#include "engine/job_states.h"
#include "resource/kinds.h"

namespace stasis {
namespace {

constexpr std::size_t kNone = ~std::size_t{0};

}  // namespace

// All are killed before any is waited for: one that waits for another would never end.
TreeRestore::~TreeRestore() {
  for (const auto& process : live_) {
    if (process->made()) process->task().kill();
  }
  for (auto& other : others_) {
    if (other) other->kill();
  }
  if (!was_reaper_) ::prctl(PR_SET_CHILD_SUBREAPER, 0);
}

Result<void> TreeRestore::read(ImageReader& image, const InheritedState& inherited) {
  inherited_ = inherited;
  const TreeRecord tree = STASIS_TRY(image.read<TreeRecord>());
  std::vector<std::vector<ThreadRecord>> threads;
  for (std::uint32_t i = 0; i < tree.processes; ++i) {
    records_.push_back(STASIS_TRY(image.read<ProcessRecord>()));
    if (records_.back().zombie && records_.back().threads != 0) {
      return Error(Errc::kBadImage, fmt::format("process {} has ended and has threads", records_.back().pid.value()));
    }
    auto& own = threads.emplace_back();
    for (std::uint32_t t = 0; t < records_.back().threads; ++t) own.push_back(STASIS_TRY(image.read<ThreadRecord>()));
  }
  live_of_.assign(records_.size(), kNone);
  for (std::size_t i = 0; i < records_.size(); ++i) {
    if (records_[i].zombie) continue;
    live_of_[i] = live_.size();
    node_of_.push_back(i);
    live_.push_back(STASIS_TRY(ProcessRestore::plan(records_[i], std::move(threads[i]), context_)));
    STASIS_TRY(live_.back()->check_rights(inherited_, context_.owner));
  }
  find_owners();
  plan_ = STASIS_TRY(TreePlan::make(records_, context_.policy.session, who_has_parents_pages()));
  live_of_.resize(plan_.nodes.size(), kNone);
  others_.resize(plan_.nodes.size());
  return {};
}

// By record.
std::vector<bool> TreeRestore::who_has_parents_pages() const {
  std::map<ImagePid, const ProcessRestore*> known;
  std::vector<bool> answers(records_.size());
  for (std::size_t i = 0; i < live_.size(); ++i) {
    const auto parent = known.find(live_[i]->record().parent);
    answers[node_of_[i]] = parent != known.end() && live_[i]->can_be_forked_from(*parent->second);
    known.emplace(live_[i]->record().pid, live_[i].get());
  }
  return answers;
}

// Of several processes with one object the first restores it.
void TreeRestore::find_owners() {
  std::set<ObjRef> seen;
  for (const auto& process : live_) {
    const ProcessRecord& record = process->record();
    process->set_owns({.memory = seen.insert(record.memory).second,
                       .files = seen.insert(record.file_table).second,
                       .fs = seen.insert(record.fs).second,
                       .sighand = seen.insert(record.sighand).second});
  }
}

NewProcess& TreeRestore::task(std::size_t node) {
  return live_of_[node] != kNone ? live_[live_of_[node]]->task() : *others_[node];
}

// kNone: no process of the image has that pid.
std::size_t TreeRestore::node_with(ImagePid pid) const {
  const auto found = std::ranges::find(records_, pid, &ProcessRecord::pid);
  return found == records_.end() ? kNone : static_cast<std::size_t>(found - records_.begin());
}

template <class... Args>
Result<void> TreeRestore::call(std::size_t node, std::string what, long nr, Args... args) {
  CallRunner calls(task(node), context_.patience);
  STASIS_TRY(calls.call(std::move(what), nr, args...));
  return calls.flush();
}

Result<void> TreeRestore::make() {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> taken;
  for (const auto& process : live_) process->memory().add_ranges(taken);
  gate_.emplace(STASIS_TRY(RestartGate::create(taken)));
  int reaper = 0;
  if (plan_.needs_reaper && ::getpid() != 1 && ::prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0 && !reaper) {
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return Error::from_errno(errno, "becoming a child subreaper");
    was_reaper_ = false;
  }
  for (std::size_t node = plan_.nodes.size(); node-- > 0;) {
    if (plan_.nodes[node].creator == kCoordinator) steps_.push_back({Step::Kind::kBear, node});
  }
  return take_steps();
}

// A pid for a helper: one that neither the image nor anybody else uses.
Result<std::int32_t> TreeRestore::unused_pid() {
  if (used_.empty()) {
    for (const ProcessRecord& record : records_) {
      used_.insert({record.pid, record.process_group, record.session});
    }
    for (const auto& process : live_) process->add_tids(used_);
  }
  constexpr std::int32_t kPidLimit = 1 << 22;  // PID_MAX_LIMIT, include/linux/threads.h
  constexpr std::int32_t kLowest = 300;        // as the kernel, which keeps the first for daemons (kernel/pid.c)
  for (std::int32_t pid = kLowest; pid < kPidLimit; ++pid) {
    if (used_.contains(ImagePid(pid)) || ::kill(pid, 0) == 0 || errno != ESRCH) continue;
    used_.insert(ImagePid(pid));
    return pid;
  }
  return Error(Errc::kPidTaken, "no process id is free");
}

Result<NewProcess> TreeRestore::create(const TreeNode& node, int report_signal) {
  const bool helper = node.kind == TreeNode::Kind::kHelper;
  const std::int32_t pid = node.pid ? node.pid.value() : STASIS_TRY(unused_pid());
  if (node.creator == kCoordinator) {
    const bool confined = std::ranges::any_of(live_, &ProcessRestore::confined);
    const auto seccomp = confined ? NewProcess::Seccomp::kSuspend : NewProcess::Seccomp::kNone;
    return NewProcess::create(*gate_, pid, report_signal, seccomp, context_.patience);
  }
  const NewProcess::Birth birth{
      .pid = pid, .flags = node.flags, .exit_signal = helper ? 0 : records_[node.record].exit_signal};
  return task(node.creator).bear(birth, report_signal, context_.patience);
}

Result<void> TreeRestore::bear(std::size_t index) {
  const TreeNode& node = plan_.nodes[index];
  if (live_of_[index] != kNone) {
    ProcessRestore& process = *live_[live_of_[index]];
    process.adopt(STASIS_TRY(create(node, process.report_signal())));
  } else {
    others_[index].emplace(STASIS_TRY(create(node, SIGURG)));
  }
  if (!node.late_session) plan_session(index);
  return {};
}

// The steps stand in reverse: the last is done first. (No recursion: an image may claim any depth.)
void TreeRestore::plan_session(std::size_t index) {
  const TreeNode& node = plan_.nodes[index];
  plan_children(index, TreeNode::Birth::kInSession, false);
  if (node.leads_session) steps_.push_back({Step::Kind::kSetsid, index});
  plan_children(index, TreeNode::Birth::kBeforeSession, false);
  if (node.late_session) plan_children(index, TreeNode::Birth::kBeforeSession, true);
}

void TreeRestore::plan_children(std::size_t index, TreeNode::Birth birth, bool need_memory) {
  for (const std::size_t child : plan_.nodes[index].children | std::views::reverse) {
    const TreeNode& node = plan_.nodes[child];
    if (node.birth == birth && node.needs_memory == need_memory) steps_.push_back({Step::Kind::kBear, child});
  }
}

Result<void> TreeRestore::take_steps() {
  while (!steps_.empty()) {
    const Step step = steps_.back();
    steps_.pop_back();
    STASIS_TRY(step.kind == Step::Kind::kBear ? bear(step.node) : call(step.node, "setsid", SYS_setsid));
  }
  return {};
}

std::optional<HostPid> TreeRestore::foreground_group() const {
  const auto has_own_terminal = [&](ImagePid session) {
    return std::ranges::find(context_.controlling, session, &ControllingTerminal::session) !=
           context_.controlling.end();
  };
  for (const auto& process : live_) {
    if (has_own_terminal(process->record().session)) continue;
    if (process->record().foreground) return HostPid(::getpgid(process->pid().value()));
  }
  return std::nullopt;
}

Result<void> TreeRestore::map_memory(std::size_t index) {
  if (!live_[index]->made()) {
    return Error(Errc::kBadImage, fmt::format("process {} could only be made by one that stands behind it",
                                              live_[index]->record().pid.value()));
  }
  ProcessRestore& process = *live_[index];
  const TreeNode& node = plan_.nodes[node_of_[index]];
  const ProcessRestore* const parent = node.forks_memory ? live_[live_of_[node.creator]].get() : nullptr;
  STASIS_TRY(process.map(*gate_, inherited_, parent, context_.patience));
  if (!process.owns_memory() || !process.memory().origin() || process.memory().to_copy().empty()) return {};
  for (std::size_t i = 0; i < index; ++i) {
    if (&live_[i]->memory() == process.memory().origin())
      return process.copy_forked_pages(*live_[i], context_.patience);
  }
  return Error(Errc::kBadImage, fmt::format("process {} has pages of a memory that does not stand before it",
                                            process.record().pid.value()));
}

Result<void> TreeRestore::write_pages(std::size_t index, std::span<const PageRun> runs,
                                      std::span<const std::byte> pages) const {
  return live_[index]->write_pages(runs, pages);
}

// It is waited for when it is to bear children, when there are no more slots, or when it is the last.
Result<void> TreeRestore::finish_memory(std::size_t index) {
  finishing_.reserve(GateMemory::kSmallSlots);
  const GateSlot slot = gate_->memory().small_slot(finishing_.size());
  CallRunner& calls = finishing_.emplace_back(live_[index]->task(), context_.patience, slot);
  STASIS_TRY(live_[index]->finish_memory(calls));
  STASIS_TRY(calls.start());
  const std::size_t node = node_of_[index];
  plan_children(node, TreeNode::Birth::kInSession, true);
  if (plan_.nodes[node].late_session) plan_session(node);
  const bool last = index + 1 == live_.size();
  if (!steps_.empty() || finishing_.size() == GateMemory::kSmallSlots || last) {
    for (CallRunner& begun : finishing_) STASIS_TRY(begun.finish());
    finishing_.clear();
  }
  return take_steps();
}

Result<void> TreeRestore::settle_kinship() {
  STASIS_TRY(set_groups());
  STASIS_TRY(give_terminals());
  STASIS_TRY(end_helpers());
  return end_zombies();
}

Result<void> TreeRestore::set_group(std::size_t node, ImagePid group) {
  return call(node, fmt::format("setpgid {} of process {}", group.value(), records_[node].pid.value()), SYS_setpgid, 0,
              group.value());
}

// Every process is in the group of its session's leader now, or in that of the surroundings.
Result<void> TreeRestore::set_groups() {
  const Surroundings around(records_);
  std::map<ImagePid, std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const ImagePid group = records_[i].process_group;
    if (plan_.nodes[i].leads_session || group == records_[i].session || around.have_group(group)) continue;
    groups[group].push_back(i);
  }
  for (auto& [group, members] : groups) {
    const auto leader = std::ranges::find(members, group, [&](std::size_t i) { return records_[i].pid; });
    if (leader != members.end()) {
      std::swap(*leader, members.front());
      for (const std::size_t member : members) STASIS_TRY(set_group(member, group));
      continue;
    }
    // Its leader has ended: somebody takes its place for a moment.
    NewProcess& creator = task(members.front());
    NewProcess helper = STASIS_TRY(
        creator.bear({.pid = group.value(), .flags = CLONE_VM, .exit_signal = 0}, SIGURG, context_.patience));
    CallRunner calls(helper, context_.patience);
    STASIS_TRY(calls.call("setpgid of a helper", SYS_setpgid, 0, 0));
    STASIS_TRY(calls.flush());
    for (const std::size_t member : members) STASIS_TRY(set_group(member, group));
    STASIS_TRY(helper.end(0, context_.patience));
    STASIS_TRY(creator.reap(helper.pid(), context_.patience));
  }
  return {};
}

// Sessions at the tree's own terminals get them back, and these their foreground groups.
Result<void> TreeRestore::give_terminals() {
  for (const ControllingTerminal& controlling : context_.controlling) {
    const std::size_t leader = node_with(controlling.session);
    if (leader == kNone) continue;  // without its leader a session has no terminal
    CallRunner calls(task(leader), context_.patience);
    STASIS_TRY(calls.call(fmt::format("giving session {} its terminal", controlling.session.value()), SYS_ioctl,
                          controlling.terminal, TIOCSCTTY, 0));
    if (controlling.foreground.value() != 0) {
      STASIS_TRY(calls.make_room(1, sizeof(std::int32_t)));
      const auto group = calls.batch().put(controlling.foreground.value());
      STASIS_TRY(calls.call(fmt::format("giving group {} its terminal", controlling.foreground.value()), SYS_ioctl,
                            controlling.terminal, TIOCSPGRP, group.remote));
    }
    STASIS_TRY(calls.flush());
  }
  return {};
}

Result<void> TreeRestore::end_helpers() {
  for (std::size_t i = records_.size(); i < plan_.nodes.size(); ++i) {
    const TreeNode& node = plan_.nodes[i];
    if (node.creator != kCoordinator && node.creator < records_.size()) {
      // Whoever gets the orphans must be known as their reaper by now.
      for (const std::size_t child : node.children) {
        const std::size_t parent = node_with(records_[child].parent);
        if (parent == kNone) continue;
        STASIS_TRY(call(parent, "becoming a child subreaper", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
      }
    }
    STASIS_TRY(others_[i]->end(0, context_.patience));
    if (node.creator != kCoordinator) STASIS_TRY(task(node.creator).reap(others_[i]->pid(), context_.patience));
    others_[i].reset();
  }
  return {};
}

Result<void> TreeRestore::name_process(NewProcess& process, const std::string& name) const {
  if (name.empty()) return {};
  CallRunner calls(process, context_.patience);
  const auto text = calls.batch().text(name);
  STASIS_TRY(calls.call("setting the name of a process that has ended", SYS_prctl, PR_SET_NAME, text.remote, 0, 0, 0));
  return calls.flush();
}

Result<void> TreeRestore::end_zombies() {
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const ProcessRecord& record = records_[i];
    if (!record.zombie) continue;
    STASIS_TRY(name_process(*others_[i], record.name));
    STASIS_TRY(others_[i]->end(record.wait_status, context_.patience));
    others_[i].reset();
    const std::size_t parent = node_with(record.parent);
    if (parent != kNone) STASIS_TRY(task(parent).forget_child_signal(context_.patience));
  }
  return {};
}

// `fill` puts together what each of them shall call, in a slot of its own: as many as there are slots call at one time.
template <class Fill>
Result<void> TreeRestore::call_in_all(std::span<ProcessRestore* const> processes, Fill fill) const {
  for (std::span<ProcessRestore* const> rest = processes; !rest.empty();) {
    const auto some = rest.first(std::min(rest.size(), GateMemory::kSmallSlots));
    rest = rest.subspan(some.size());
    std::vector<CallRunner> runners;
    runners.reserve(some.size());
    for (std::size_t i = 0; i < some.size(); ++i) {
      CallRunner& calls = runners.emplace_back(some[i]->task(), context_.patience, gate_->memory().small_slot(i));
      STASIS_TRY(fill(*some[i], calls));
      STASIS_TRY(calls.start());
    }
    for (CallRunner& calls : runners) STASIS_TRY(calls.finish());
  }
  return {};
}

Result<void> TreeRestore::restore() {
  std::vector<ProcessRestore*> all, plain;
  for (const auto& process : live_) all.push_back(process.get());
  std::ranges::copy_if(all, std::back_inserter(plain), &ProcessRestore::is_plain);
  STASIS_TRY(call_in_all(
      all, [&](ProcessRestore& process, CallRunner& calls) { return process.fill_context(context_, calls); }));
  // Those first whose leaders may end: their children learn of the end of the thread that is left.
  for (ProcessRestore* const process : all) {
    if (!process->is_plain()) STASIS_TRY(process->restore(inherited_, context_));
  }
  STASIS_TRY(call_in_all(plain, [&](ProcessRestore& process, CallRunner& calls) {
    return process.fill_process(inherited_, context_, calls);
  }));
  for (const ProcessRestore* const process : plain) STASIS_TRY(process->adopt_own_files(context_));
  STASIS_TRY(call_in_all(
      plain, [&](ProcessRestore& process, CallRunner& calls) { return process.fill_last(inherited_, calls); }));
  for (ProcessRestore* const process : plain) STASIS_TRY(process->restore_scheduling());
  return {};
}

// Whoever has no parent in the tree stops when it is released: nobody is there to ask for it.
Result<void> TreeRestore::restore_job_states() {
  for (const auto& process : live_) {
    const ProcessRecord& record = process->record();
    if (!record.parent) continue;
    STASIS_TRY(restore_job_state(task(node_with(record.parent)), process->task(), record, context_.patience));
  }
  return {};
}

// A few at a time side by side: each step is begun in all of them before it is waited for in any.
Result<void> TreeRestore::start_calls() {
  struct Call {
    ProcessRestore* process;
    std::size_t thread;
  };
  std::vector<Call> calls;
  for (const auto& process : live_) {
    for (const std::size_t thread : STASIS_TRY(process->load_states())) calls.push_back({process.get(), thread});
  }
  const Patience& patience = context_.patience;
  for (std::span<const Call> rest = calls; !rest.empty();) {
    const auto some = rest.first(std::min(rest.size(), GateMemory::kSmallSlots));
    rest = rest.subspan(some.size());
    for (std::size_t i = 0; i < some.size(); ++i)
      STASIS_TRY(some[i].process->begin_call(some[i].thread, gate_->memory().small_slot(i)));
    for (const Call& call : some) STASIS_TRY(call.process->interrupt_call(call.thread, patience));
    for (const Call& call : some) STASIS_TRY(call.process->finish_call(call.thread, patience));
  }
  return {};
}

Result<void> TreeRestore::stand_by() {
  for (const auto& process : live_) STASIS_TRY(process->watch_own_files(context_));
  STASIS_TRY(restore_job_states());
  STASIS_TRY(start_calls());
  for (const auto& process : live_) STASIS_TRY(process->begin_stand_by());
  for (const auto& process : live_) STASIS_TRY(process->enter_stand_by(context_.patience));
  for (const auto& process : live_) STASIS_TRY(process->finish_stand_by(context_.patience));
  return {};
}

void TreeRestore::release() {
  for (const auto& process : live_ | std::views::reverse) process->release();
}

}  // namespace stasis
