// SPDX-License-Identifier: Apache-2.0
#include "engine/tree_image.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <map>
#include <ranges>
#include <span>

#include "base/log.h"
#include "base/without_memory.h"
#include "engine/job_states.h"
#include "kernel/kcmp.h"
#include "resource/task_obstacles/task_obstacles.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

// Whatever went wrong with a process that has ended meanwhile, that is the
// cause.
bool has_ended(HostPid pid) {
  const auto proc = kernel::ProcDir::open(pid);
  return !proc || proc->has_ended();
}

// The parent of a process as the coordinator sees it; 0 if it is gone.
HostPid parent_of(const kernel::ProcDir& proc) {
  const auto stat = proc.stat();
  return HostPid(stat ? stat->ppid : 0);
}

// Is there so much to read that a thread of its own for it costs less?
bool worth_a_thread(std::span<const std::unique_ptr<ProcessImage>> processes) {
  constexpr std::size_t kMappings = 64;
  std::size_t mappings = 0;
  for (const auto& process : processes) mappings += process->vmas().size();
  return mappings >= kMappings;
}

}  // namespace

TreeImage::~TreeImage() { let_go(); }

Result<TreeImage> TreeImage::look(HostPid root) {
  TreeImage tree(STASIS_TRY(Observer::here()), STASIS_TRY(UsedSemaphores::look()));
  tree.processes_.push_back(STASIS_TRY(tree.look_at(root)));
  STASIS_TRY(tree.add_namespace_mates());
  for (std::size_t i = 0; i < tree.processes_.size(); ++i) {
    auto children = tree.processes_[i]->look_for_children();
    auto added = children ? tree.add_children(*std::move(children)) : Result<void>(Error(children.error()));
    if (!added && (i == 0 || !has_ended(tree.processes_[i]->pid()))) return Error(std::move(added).error());
  }
  if (most_side_by_side() > 1 && worth_a_thread(tree.processes_)) {
    auto queue = WorkQueue::create({.name = "stasis-beside", .kind = QueueKind::kUnbound, .max_active = 1});
    if (queue) tree.beside_ = *std::move(queue);  // otherwise all is done here
  }
  return tree;
}

ProcessImage* TreeImage::find(HostPid pid) const {
  const auto found =
      std::ranges::find(processes_, pid, [](const auto& process) { return process ? process->pid() : HostPid(); });
  return found == processes_.end() ? nullptr : found->get();
}

bool TreeImage::has(HostPid pid) const { return find(pid) || std::ranges::find(ended_, pid) != ended_.end(); }

Result<std::unique_ptr<ProcessImage>> TreeImage::look_at(HostPid pid) const {
  kernel::ProcDir proc = STASIS_TRY(kernel::ProcDir::open(pid));
  TaskFacts facts = STASIS_TRY(look_at_task(proc, observer_, semaphores_));
  const Obstacles obstacles = find_task_obstacles(facts, observer_);
  if (!obstacles.empty()) return to_error(obstacles);
  return ProcessImage::look(std::move(proc), std::move(facts), *clocks_);
}

Result<void> TreeImage::add_children(std::vector<HostPid> children) {
  std::erase_if(children, [this](HostPid child) { return has(child); });
  std::vector<std::unique_ptr<ProcessImage>> found(children.size());
  std::vector<char> ended(children.size());
  const auto look = [&](std::size_t i, std::size_t) -> Result<void> {
    auto image = look_at(children[i]);
    ended[i] = !image && has_ended(children[i]);
    if (ended[i]) return {};
    found[i] = STASIS_TRY(std::move(image));
    return {};
  };
  STASIS_TRY(side_by_side({.count = children.size()}, look));
  for (std::size_t i = 0; i < children.size(); ++i) {
    if (ended[i]) {
      ended_.push_back(children[i]);
    } else {
      processes_.push_back(std::move(found[i]));
    }
  }
  return {};
}

// A pid namespace that a restart made belongs to its tree, reparented orphans
// included; its process 1 is ours.
Result<void> TreeImage::add_namespace_mates() {
  const HostPid parent = parent_of(processes_.front()->proc());
  const auto init = kernel::ProcDir::open(parent);
  const auto status = init ? init->status() : Result<kernel::ProcStatus>(init.error());
  if (!status || status->ns_pid.size() < 2 || status->ns_pid.back() != 1) return {};
  const auto name = init->thread_comm(parent);
  if (!name || *name != kInitName) return {};
  return add_children(STASIS_TRY(init->children()));
}

void TreeImage::await_helper() const {
  if (beside_) (void)beside_->flush();
}

// A child that is let go may end at once: its parent, who may ignore its children for a copy's sake, must know.
void TreeImage::heed_children() const {
  const Patience patience(std::chrono::hours(1), nullptr);
  for (const auto& process : processes_) {
    if (process->attached()) process->traced().heed_children(patience);
  }
}

void TreeImage::let_go() {
  await_helper();
  heed_children();
  for (const auto& process : processes_ | std::views::reverse) process->let_go();
}

// Waits for one process and takes up the children it has then.
Result<TreeImage::Settled> TreeImage::settle(std::size_t index, const Patience& patience) {
  ProcessImage* const process = processes_[index].get();
  auto settled = process->settle(patience, [&] {
    if (beside_) (void)beside_->post([process] { process->look_ahead(); });
  });
  if (!settled) await_helper();
  if (!settled && index > 0 && has_ended(processes_[index]->pid())) {
    ended_.push_back(processes_[index]->pid());
    processes_.erase(processes_.begin() + static_cast<std::ptrdiff_t>(index));
    return Settled::kEnded;
  }
  if (!settled && processes_[index]->sleeps_in_vfork()) return Settled::kInVfork;
  STASIS_TRY(std::move(settled));
  const std::size_t known = processes_.size();
  std::vector<HostPid> children = STASIS_TRY(processes_[index]->children());
  processes_[index]->set_childless(children.empty());
  STASIS_TRY(add_children(std::move(children)));
  for (std::size_t i = known; i < processes_.size(); ++i) {
    if (auto attached = processes_[i]->attach(); !attached && !has_ended(processes_[i]->pid())) return attached.error();
  }
  return Settled::kStopped;
}

// Who was orphaned since we looked has the namespace's process 1 for a parent,
// which runs on.
Result<void> TreeImage::attach_new_mates() {
  const std::size_t known = processes_.size();
  STASIS_TRY(add_namespace_mates());
  for (std::size_t i = known; i < processes_.size(); ++i) {
    if (auto attached = processes_[i]->attach(); !attached && !has_ended(processes_[i]->pid())) return attached.error();
  }
  return {};
}

// Nothing: all stand. Otherwise the process that sleeps in vfork and can't be
// stopped.
Result<std::optional<HostPid>> TreeImage::freeze_once(const Patience& patience) {
  for (const auto& process : processes_) {
    auto attached = process->attach();
    if (!attached && (process == processes_.front() || !has_ended(process->pid()))) return attached.error();
  }
  const HostPid root = processes_.front()->pid();
  std::erase_if(processes_, [&](const auto& process) { return !process->attached() && process->pid() != root; });
  for (std::size_t i = 0; i < processes_.size();) {
    if (!processes_[i]->attached()) {
      processes_.erase(processes_.begin() + static_cast<std::ptrdiff_t>(i));
      continue;
    }
    const HostPid pid = processes_[i]->pid();
    const Settled settled = STASIS_TRY(settle(i, patience));
    if (settled == Settled::kInVfork) return pid;
    if (settled == Settled::kStopped) ++i;
    if (i == processes_.size()) STASIS_TRY(attach_new_mates());
  }
  return std::nullopt;
}

// A parent in vfork can't be stopped; its child must run on, so that both can
// be stopped a little later.
Result<void> TreeImage::freeze(const Patience& patience) {
  constexpr useconds_t kPause = 2000;
  const auto stop_all = [&] {
    auto stopped = freeze_once(patience);
    if (beside_) (void)beside_->flush();
    return stopped;
  };
  while (const auto in_vfork = STASIS_TRY(stop_all())) {
    let_go();
    log::debug("checkpoint", "process {} is in vfork: later", in_vfork->value());
    if (!patience.check()) {
      return Error(Errc::kUnsupportedTask, fmt::format("process {} waits in vfork for its child to run "
                                                       "another program",
                                                       in_vfork->value()))
          .with_help("try again in a moment, or allow more time (--timeout)");
    }
    ::usleep(kPause);
  }
  STASIS_TRY(side_by_side({.count = processes_.size()},
                          [this](std::size_t i, std::size_t) { return processes_[i]->refresh(); }));
  sort_by_descent();
  STASIS_TRY(find_shares());
  return find_zombies();
}

std::vector<std::pair<HostPid, HostPid>> TreeImage::parents() const {
  std::vector<std::pair<HostPid, HostPid>> pairs;
  for (const auto& process : processes_) pairs.emplace_back(process->pid(), process->parent());
  return pairs;
}

Result<Obstacles> TreeImage::find_late_obstacles() const {
  const UsedSemaphores semaphores = STASIS_TRY(UsedSemaphores::look());
  std::vector<Obstacles> found(processes_.size());
  const auto look = [&](std::size_t i, std::size_t) -> Result<void> {
    found[i] = STASIS_TRY(processes_[i]->find_late_obstacles(observer_, semaphores));
    return {};
  };
  STASIS_TRY(side_by_side({.count = processes_.size()}, look));
  Obstacles all;
  for (Obstacles& one : found) std::ranges::move(one, std::back_inserter(all));
  return all;
}

Result<void> TreeImage::open_gates(const Patience& patience) const {
  std::vector<TracedProcess::GateOrder> orders;
  for (const auto& process : processes_) orders.push_back(process->gate_order());
  return TracedProcess::open_gates(orders, patience);
}

// Memory is looked at beside the questions to the threads, which only the
// tracer can ask.
Result<void> TreeImage::inspect(SeccompTable& seccomp, const OpenFileTable& files, const Patience& patience) const {
  STASIS_TRY(open_gates(patience));
  std::vector<Result<void>> looked(processes_.size());
  std::atomic<std::size_t> next = 0;
  const auto look = [&] {
    for (std::size_t i = next++; i < looked.size(); i = next++) {
      looked[i] = or_no_memory([&] { return processes_[i]->inspect_memory(files); });
    }
  };
  // However this ends, nobody goes on looking.
  const auto stop = [&] {
    next = looked.size();
    await_helper();
  };
  const struct Stop {
    const decltype(stop)& at_the_end;
    ~Stop() { at_the_end(); }
  } whatever_happens{stop};
  if (beside_) (void)beside_->post(look);
  Result<void> asked;
  for (const auto& process : processes_) {
    if (asked) asked = process->begin_inspection();
  }
  for (const auto& process : processes_) {
    if (asked) asked = process->inspect(seccomp, patience);
  }
  if (asked) look();
  stop();
  STASIS_TRY(std::move(asked));
  for (Result<void>& result : looked) STASIS_TRY(std::move(result));
  for (const auto& process : processes_) process->finish_inspection();
  return {};
}

// Children of what ended during the freeze have other parents now. Depth first
// finds each parent before its children.
void TreeImage::sort_by_descent() {
  std::map<HostPid, std::vector<std::size_t>> children;
  const auto pairs = parents();
  for (std::size_t i = pairs.size(); i-- > 1;) {
    const bool inside = find(pairs[i].second) != nullptr;
    children[inside ? pairs[i].second : HostPid()].push_back(i);
  }
  std::vector<std::size_t> steps = children[HostPid()];
  steps.push_back(0);
  std::vector<std::unique_ptr<ProcessImage>> sorted;
  while (!steps.empty()) {
    const std::size_t index = steps.back();
    steps.pop_back();
    const auto& below = children[pairs[index].first];
    steps.insert(steps.end(), below.begin(), below.end());
    sorted.push_back(std::move(processes_[index]));
  }
  processes_ = std::move(sorted);
}

// kcmp orders the objects: each is looked up among those that are known. What is shared belongs to the first in the
// tree.
template <class Member>
Result<void> TreeImage::find_sharers(kernel::KcmpType type, Member member, const std::vector<std::size_t>& candidates) {
  std::vector<std::size_t> known;  // one process for each object, in the kernel's order
  for (const std::size_t i : candidates) {
    std::size_t low = 0, high = known.size();
    std::optional<std::size_t> same;
    while (low < high && !same) {
      const std::size_t middle = low + (high - low) / 2;
      const auto order = STASIS_TRY(
          kernel::kcmp(type, processes_[i]->proc().live_tid(), processes_[known[middle]]->proc().live_tid()));
      if (order == std::partial_ordering::equivalent) {
        same = known[middle];
      } else if (order == std::partial_ordering::less) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    if (same) {
      processes_[i]->shares().*member = processes_[*same]->shares().*member;
    } else {
      known.insert(known.begin() + static_cast<std::ptrdiff_t>(low), i);
    }
  }
  return {};
}

// Signal actions are shared only together with memory: clone(2) demands it, and
// execve(2) gives up both.
Result<void> TreeImage::find_shares() {
  using kernel::KcmpType;
  using Shares = ProcessImage::Shares;
  constexpr std::array kKinds = {std::pair{KcmpType::kVm, &Shares::memory}, std::pair{KcmpType::kFiles, &Shares::files},
                                 std::pair{KcmpType::kFs, &Shares::fs}};
  std::vector<std::size_t> all(processes_.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    ProcessImage* const process = processes_[i].get();
    process->shares() = {process, process, process, process};
    all[i] = i;
  }
  // A comparison needs no tracer; where there are but a few, a thread is not
  // worth its while.
  const std::size_t worth = all.size() < 16 ? kKinds.size() : 1;
  STASIS_TRY(side_by_side({.count = kKinds.size(), .worth_a_thread = worth}, [&](std::size_t i, std::size_t) {
    return find_sharers(kKinds[i].first, kKinds[i].second, all);
  }));
  for (const std::size_t owner : all) {
    std::vector<std::size_t> members;
    std::ranges::copy_if(all, std::back_inserter(members),
                         [&](std::size_t i) { return processes_[i]->shares().memory == processes_[owner].get(); });
    if (members.size() < 2) continue;
    STASIS_TRY(find_sharers(KcmpType::kSighand, &Shares::sighand, members));
    // Somebody may have run on with it when the mappings were read.
    for (const std::size_t i : members) STASIS_TRY(processes_[i]->refresh_mappings());
  }
  return {};
}

Result<void> TreeImage::find_zombies() {
  constexpr int kTries = 1000;
  constexpr useconds_t kPause = 100;
  zombies_.clear();
  for (const auto& process : processes_) {
    if (process->childless()) continue;
    for (const HostPid child : STASIS_TRY(process->children())) {
      if (find(child)) continue;
      // Nobody holds one that is on its way out.
      auto proc = kernel::ProcDir::open(child);
      auto state = proc ? proc->stat() : Result<kernel::ProcStat>(proc.error());
      for (int i = 0; i < kTries && state && !state->zombie() && proc->has_ended(); ++i) {
        ::usleep(kPause);
        state = proc->stat();
      }
      if (!state)
        continue;  // its parent is stopped: only one that ignores SIGCHLD loses
                   // it so
      const kernel::ProcStat& stat = *state;
      if (!stat.zombie()) {
        return Error(Errc::kUnsupportedTask, fmt::format("process {} was not there a moment ago", child.value()))
            .with_help("try again");
      }
      ZombieImage& zombie = zombies_.emplace_back(ZombieImage{.pid = child, .parent = process->pid(), .record = {}});
      fill_ids(stat, STASIS_TRY(proc->status()), zombie.record);
      zombie.record.zombie = true;
      zombie.record.wait_status = stat.exit_code;
      zombie.record.name = stat.comm;
    }
  }
  return {};
}

Result<void> TreeImage::find_forked_pages(const Patience& patience) {
  std::vector<std::pair<ProcessImage*, ProcessImage*>> related;  // parent and child; those of one parent together
  for (const auto& [pid, parent] : parents()) {
    ProcessImage* const process = find(pid);
    ProcessImage* const from = pid == processes_.front()->pid() ? nullptr : find(parent);
    if (from && process->owns_memory() && &from->memory() != &process->memory()) related.emplace_back(from, process);
  }
  std::ranges::stable_sort(related, {}, [](const auto& pair) { return &pair.first->memory(); });
  std::vector<ParentAndChild> pairs;
  for (const auto& [parent, child] : related) pairs.push_back({.parent = parent->pages(), .child = child->pages()});
  auto found = STASIS_TRY(stasis::find_forked_pages(pairs, patience));
  for (std::size_t i = 0; i < related.size(); ++i) {
    const auto [parent, child] = related[i];
    child->memory().take_from(parent->memory(), std::move(found[i]));
  }
  return {};
}

void TreeImage::link_parents() {
  const auto image_pid = [&](HostPid pid) {
    ProcessImage* const process = find(pid);
    return process ? process->record().pid : ImagePid();
  };
  for (const auto& [pid, parent] : parents()) {
    const bool root = pid == processes_.front()->pid();
    find(pid)->record().parent = root ? ImagePid() : image_pid(parent);
  }
  for (ZombieImage& zombie : zombies_) zombie.record.parent = image_pid(zombie.parent);
}

Result<void> TreeImage::ask_job_states(const Patience& patience) {
  std::map<HostPid, std::vector<ProcessImage*>> children;
  for (const auto& [pid, parent] : parents()) {
    if (find(parent) && pid != processes_.front()->pid()) children[parent].push_back(find(pid));
  }
  for (const auto& [parent, all] : children) STASIS_TRY(stasis::ask_job_states(*find(parent), all, patience));
  return {};
}

Result<void> TreeImage::resume(int signal) {
  const Patience patience(std::chrono::hours(1), nullptr);
  std::vector<TracedProcess*> all;
  for (const auto& process : processes_) all.push_back(&process->traced());
  heed_children();
  TracedProcess::close_gates(all, patience);
  Result<void> first;
  for (const auto& process : processes_ | std::views::reverse) {
    if (auto resumed = process->resume(signal, patience); !resumed && first) first = std::move(resumed);
  }
  return first;
}

// wait4(2) by the parent, through its gate. A parent that was killed by others,
// or did not come back from the last such call, is left alone.
void TreeImage::reap_in(ProcessImage& parent, ImagePid child) {
  if (!parent.attached() || !parent.traced().gate_open()) return;
  if (parent.traced().carrier().state() != TracedThread::State::kStopped) return;
  const Patience patience(std::chrono::seconds(60), nullptr);
  Batch batch(parent.traced().carrier_slot());
  batch.call(SYS_wait4, child.value(), 0, WNOHANG | __WALL, 0);
  if (auto ran = parent.traced().run(batch, patience); !ran) log::debug("checkpoint", "{}", ran.error().message());
}

void TreeImage::kill() {
  std::map<HostPid, HostPid> parent_of;
  for (const auto& [pid, parent] : parents()) parent_of[pid] = parent;
  for (const ZombieImage& zombie : zombies_) {
    if (ProcessImage* const parent = find(zombie.parent)) reap_in(*parent, zombie.record.pid);
  }
  for (const auto& process : processes_ | std::views::reverse) {
    process->traced().kill();
    ProcessImage* const parent = find(parent_of[process->pid()]);
    if (parent && process != processes_.front()) reap_in(*parent, process->record().pid);
  }
}

}  // namespace stasis
