// SPDX-License-Identifier: Apache-2.0
#include "tracee/process_copy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "base/panic.h"
#include "kernel/thread_signal.h"
#include "tracee/batch_transfer.h"
#include "tracee/heal_area.h"
#include "tracee/process.h"

namespace stasis {
namespace {

constexpr std::uint64_t kNobody = 0x7fffff00;  // larger than any pid
constexpr std::uint64_t kCloseRangeUnshare = 2;
constexpr std::size_t kMidwifeSlot = 0;

// The process that was made: `inner` is its number in its parent's pid namespace, which may be another than ours.
Result<HostPid> find_child(const kernel::ProcDir& parent, std::int64_t inner, bool same_namespace) {
  if (same_namespace) return HostPid(static_cast<std::int32_t>(inner));
  for (const HostPid child : STASIS_TRY(parent.children())) {
    const auto proc = kernel::ProcDir::open(child);
    const auto status = proc ? proc->status() : Result<kernel::ProcStatus>(proc.error());
    if (status && !status->ns_pid.empty() && status->ns_pid.back() == inner) return child;
  }
  return Error(Errc::kVanished, fmt::format("the child {} of process {} is gone", inner, parent.pid().value()));
}

// Whom she has borne and nobody took over. (What can't be found now the kernel kills when we end.)
void end_lost_copies(const TracedThread& midwife) {
  const auto proc = kernel::ProcDir::open(midwife.tid());
  const auto children = proc ? proc->children() : Result<std::vector<HostPid>>(proc.error());
  if (!children) return;
  for (const HostPid child : *children) TracedThread::adopt(child).kill();
}

// Memory that runs short is to be its end before the program's.
void go_first(HostPid pid) {
  auto file = open_at(AT_FDCWD, fmt::format("/proc/{}/oom_score_adj", pid.value()), O_WRONLY);
  if (!file || ::write(file->get(), "1000", 4) != 4) log::debug("tracee", "copy {}: oom_score_adj stays", pid.value());
}

}  // namespace

ProcessCopy::~ProcessCopy() {
  if (alive_) thread_.kill();
}

void ProcessCopy::end() {
  if (alive_) static_cast<void>(kernel::send_thread_signal(pid(), pid(), SIGKILL));
}

// The SIGCHLD that waits for the process: one at most does. Whoever ignores the signal loses it.
Result<std::optional<siginfo_t>> TracedProcess::waiting_child_signal() const {
  using kernel::SignalQueue;
  const auto find = [](const std::vector<siginfo_t>& queue) {
    return std::ranges::find(queue, SIGCHLD, &siginfo_t::si_signo);
  };
  for (const TracedThread& thread : threads_) {
    const auto own = STASIS_TRY(kernel::ptrace_peek_siginfo(thread.tid(), SignalQueue::kThread));
    if (find(own) == own.end()) continue;
    // Nobody but that thread could queue it again.
    return Error(Errc::kRefused, fmt::format("pid {}: a SIGCHLD waits for thread {} alone, which a copy would lose",
                                             pid_.value(), thread.tid().value()));
  }
  const auto waiting = STASIS_TRY(kernel::ptrace_peek_siginfo(carrier().tid(), SignalQueue::kProcess));
  const auto found = find(waiting);
  if (found == waiting.end()) return std::nullopt;
  if (report_signal_ != SIGCHLD) return *found;
  return Error(Errc::kRefused, fmt::format("pid {} has a SIGCHLD waiting, which a copy would lose", pid_.value()));
}

// A child that dies is forgotten by the kernel, and nobody is told.
Result<void> TracedProcess::ignore_children(const Patience& patience) {
  const std::optional<siginfo_t> waiting = STASIS_TRY(waiting_child_signal());
  const GateSlot slot = gate_.carrier_slot();
  Batch ask(slot);
  const auto action = ask.put(BorrowedAction{});
  ask.call(SYS_rt_sigaction, SIGCHLD, 0, action, kSigsetSize);
  STASIS_TRY(run(ask, patience));
  STASIS_TRY(ask.check(0, "rt_sigaction(SIGCHLD)"));
  HealArea& area = heal_area(slot);
  area.child_action = *action;
  area.ignore = {reinterpret_cast<std::uint64_t>(SIG_IGN), 0, 0, 0};
  area.operations.wait_midwife = {.nr = SYS_wait4, .args = {kNobody, 0, std::uint64_t{__WALL}, 0}};
  area.operations.child_signal = {
      .nr = SYS_rt_sigaction,
      .args = {SIGCHLD, remote_heal_area(slot, offsetof(HealArea, child_action)), 0, kSigsetSize}};
  area.operations.child_waiting = kNoHealOperation;
  if (waiting) {
    // To itself a thread may send what only the kernel sends to others: by its own number, and it goes to the process.
    const auto itself = static_cast<std::uint64_t>(STASIS_TRY(inner_tid(carrier().tid())));
    area.waiting = *waiting;
    area.operations.child_waiting = {.nr = SYS_rt_sigqueueinfo,
                                     .args = {itself, SIGCHLD, remote_heal_area(slot, offsetof(HealArea, waiting))}};
  }
  children_ignored_ = true;
  copied_ = false;
  return push_slot(slot);
}

Result<void> TracedProcess::start_copy(const Patience& patience) {
  STASIS_INVARIANT(gate_open() && !children_ignored_);
  STASIS_TRY(ignore_children(patience));
  const GateSlot slot = gate_.carrier_slot();
  Batch calls(slot, Batch::OnError::kStop);
  calls.call(SYS_rt_sigaction, SIGCHLD, remote_heal_area(slot, offsetof(HealArea, ignore)), 0, kSigsetSize);
  constexpr std::uint64_t kAll = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_PTRACE | CLONE_PARENT_SETTID | SIGCHLD;
  const std::uint64_t number = offsetof(HealArea, operations.wait_midwife) + offsetof(arch::GateOp, args);
  const auto birth = calls.call(SYS_clone, kAll, 0, remote_heal_area(slot, number), 0, 0);
  STASIS_TRY(run(calls, patience));
  STASIS_TRY(calls.check(0, "rt_sigaction(SIGCHLD)"));
  const std::int64_t inner = STASIS_TRY(calls.check(birth, fmt::format("clone in process {}", pid_.value())));
  const HostPid midwife = STASIS_TRY(find_child(proc_, inner, !own_pid_namespace_));
  midwife_ = TracedThread::adopt(midwife);
  STASIS_TRY(midwife_->wait_stopped(patience));
  STASIS_TRY(kernel::ptrace_set_options(midwife, options_ | kernel::kTraceSysGood | kernel::kExitKill));
  STASIS_TRY(midwife_->capture());
  STASIS_TRY(prepare_foreign_slot(*memory_, gate_.small_slot(kMidwifeSlot), inner));
  copying_.emplace(gate_.small_slot(kMidwifeSlot));
  // The table of descriptors stays shared until the copy has one of its own: nobody sees a descriptor held twice.
  copying_->call(SYS_clone, std::uint64_t{CLONE_FILES | CLONE_PTRACE | SIGCHLD}, 0, 0, 0, 0);
  STASIS_TRY(push_batch(*memory_, *copying_));
  return midwife_->start(gate_, *copying_, report_signal_);
}

Result<ProcessCopy> TracedProcess::finish_copy(std::span<const AddressRange> unwanted, const Patience& patience) {
  STASIS_INVARIANT(midwife_ && copying_);
  STASIS_TRY(midwife_->await_report(patience));
  STASIS_TRY(pull_batch(*memory_, *copying_));
  const std::int64_t inner = STASIS_TRY(copying_->check(0, fmt::format("copying process {}", pid_.value())));
  const auto parent = STASIS_TRY(kernel::ProcDir::open(midwife_->tid()));
  const HostPid pid = STASIS_TRY(find_child(parent, inner, !own_pid_namespace_));
  auto proc = STASIS_TRY(kernel::ProcDir::open(pid));
  auto memory = STASIS_TRY(kernel::ProcessMemory::open(proc));
  ProcessCopy copy(pid, std::move(proc), std::move(memory));
  copied_ = true;
  STASIS_TRY(copy.thread_.wait_stopped(patience));
  STASIS_TRY(copy.thread_.capture());
  go_first(pid);
  STASIS_TRY(strip(copy, inner, unwanted, patience));
  STASIS_TRY(end_midwife(patience));
  return copy;
}

// Takes from the copy whatever it has in common with the program but memory of its own. (Sealed mappings stay.)
Result<void> TracedProcess::strip(ProcessCopy& copy, std::int64_t inner, std::span<const AddressRange> unwanted,
                                  const Patience& patience) {
  const GateSlot slot = gate_.small_slot(kMidwifeSlot);
  STASIS_TRY(prepare_foreign_slot(copy.memory(), slot, inner));
  Batch calls(slot);
  const auto run_calls = [&]() -> Result<void> {
    STASIS_TRY(push_batch(copy.memory(), calls));
    STASIS_TRY(copy.thread_.start(gate_, calls, report_signal_));
    STASIS_TRY(copy.thread_.await_report(patience));
    return pull_batch(copy.memory(), calls);
  };
  calls.call(SYS_close_range, 0, ~0U, kCloseRangeUnshare);
  calls.call(SYS_setsid);
  STASIS_TRY(run_calls());
  for (std::size_t i = 0; i < calls.size(); ++i) STASIS_TRY(calls.check(i, "taking descriptors from a copy"));
  calls.clear();
  calls.call(SYS_chdir, calls.text("/"));
  calls.call(SYS_prctl, PR_SET_NAME, calls.text("stasis-copy"), 0, 0, 0);
  for (const auto& [start, end] : unwanted) {
    if (!calls.has_room(1)) {
      STASIS_TRY(run_calls());
      calls.clear();
    }
    calls.call(SYS_munmap, start, end - start);
  }
  return run_calls();
}

// A batch that was broken off may have made her, and the kernel has written her number down.
Result<void> TracedProcess::find_lost_midwife(const Patience& patience) {
  const std::size_t number = offsetof(HealArea, operations.wait_midwife) + offsetof(arch::GateOp, args);
  const auto address = RemotePtr<std::uint64_t>(remote_heal_area(gate_.carrier_slot(), number));
  const std::uint64_t inner = STASIS_TRY(memory_->load(address));
  // 0: what was to be done for her did not even get there, and nobody was born.
  if (inner == 0 || inner >= kNobody) return {};
  const auto found = find_child(proc_, static_cast<std::int64_t>(inner), !own_pid_namespace_);
  if (!found) return {};
  TracedThread lost = TracedThread::adopt(*found);
  // She may still be on her way to her first stop. (Whoever is not traced by us can't be waited for.)
  const auto stands = lost.wait_stopped(patience);
  if (!stands) return stands.error().code() == Errc::kTargetLost ? Result<void>() : stands;
  STASIS_TRY(kernel::ptrace_set_options(*found, kernel::kExitKill));
  midwife_ = lost;
  return {};
}

void TracedProcess::drop_midwife() {
  if (!midwife_) return;
  if (!copied_) end_lost_copies(*midwife_);
  midwife_->kill();
  midwife_.reset();
  copying_.reset();
}

// Also where something failed on the way: with her goes what she has borne and nobody knows of.
Result<void> TracedProcess::end_midwife(const Patience& patience) {
  if (!children_ignored_) return {};
  if (!midwife_) STASIS_TRY(find_lost_midwife(patience));
  if (midwife_ && !copied_ && midwife_->state() == TracedThread::State::kRunning) {
    static_cast<void>(midwife_->await_report(patience));  // else she may bear one that nobody sees
  }
  drop_midwife();
  const GateSlot slot = gate_.carrier_slot();
  HealArea& area = heal_area(slot);
  HealArea::Operations& operations = area.operations;
  Batch calls(slot, Batch::OnError::kStop);
  calls.call(SYS_rt_sigaction, SIGCHLD, calls.put(area.child_action), 0, kSigsetSize);
  // Where it is the default action, that has dropped what waited as well.
  const bool waiting = operations.child_waiting.nr == SYS_rt_sigqueueinfo;
  if (waiting) calls.call(SYS_rt_sigqueueinfo, operations.child_waiting.args[0], SIGCHLD, calls.put(area.waiting));
  STASIS_TRY(run(calls, patience));
  STASIS_TRY(calls.check(0, "rt_sigaction(SIGCHLD)"));
  if (waiting) STASIS_TRY(calls.check(1, "rt_sigqueueinfo(SIGCHLD)"));
  children_ignored_ = false;
  operations.wait_midwife = operations.child_signal = operations.child_waiting = kNoHealOperation;
  return push_slot(slot);
}

}  // namespace stasis
