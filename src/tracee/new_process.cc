// SPDX-License-Identifier: Apache-2.0
#include "tracee/new_process.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <ranges>

#include "base/file.h"
#include "base/panic.h"
#include "kernel/clone3.h"
#include "kernel/proc_dir.h"
#include "kernel/proc_maps.h"
#include "kernel/ptrace.h"
#include "kernel/raw.h"
#include "kernel/thread_signal.h"

namespace stasis {
namespace {

constexpr std::uint64_t kLowestGate = 0x1000'0000;
constexpr std::uint64_t kGateAlignment = std::uint64_t{1} << 21;
constexpr std::uint64_t kGateDistance = std::uint64_t{64} << 20;  // from other mappings: a stack may grow
constexpr std::uint64_t kHighestGate = 0x7000'0000'0000;

using Range = std::pair<std::uint64_t, std::uint64_t>;

// The lowest hole that is big enough, with some distance to what is around it.
Result<std::uint64_t> find_hole(std::vector<Range> taken, std::uint64_t size) {
  std::ranges::sort(taken);
  std::uint64_t candidate = kLowestGate;
  for (const auto& [start, end] : taken) {
    if (start >= candidate && start - candidate >= size + kGateDistance) break;
    if (end <= kHighestGate)
      candidate = std::max(candidate, (end + kGateDistance + kGateAlignment - 1) & ~(kGateAlignment - 1));
  }
  if (candidate > kHighestGate - size)
    return Error(Errc::kNoMemory, "no address range is free in all processes of the image");
  return candidate;
}

// Until it is traced, with kExitKill, a new process ends with its parent by itself.
void wait_in_pause(void* parent) noexcept {
  kernel::raw_no_fault(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (kernel::raw_no_fault(SYS_getppid) != *static_cast<const pid_t*>(parent)) return;
  for (;;) kernel::raw_no_fault(SYS_pause);
}

}  // namespace

RestartGate::~RestartGate() {
  if (address_) ::munmap(reinterpret_cast<void*>(address_), size());
}

Result<RestartGate> RestartGate::create(std::span<const Range> taken) {
  std::vector<Range> ranges(taken.begin(), taken.end());
  const std::string maps = STASIS_TRY(read_file(AT_FDCWD, "/proc/self/maps"));
  const auto own = STASIS_TRY(kernel::parse_maps(maps));
  for (const kernel::Vma& vma : own) ranges.emplace_back(vma.start, vma.end);
  const std::uint64_t address = STASIS_TRY(find_hole(std::move(ranges), GateMemory::total_size()));
  const UniqueFd memfd(::memfd_create(std::string(GateMemory::kName).c_str(), MFD_CLOEXEC));
  if (!memfd) return Error::from_errno(errno, "memfd_create");
  RestartGate gate;
  gate.memory_ = STASIS_TRY(GateMemory::map(memfd));
  const auto map_at = [&](std::uint64_t size, int prot, int flags) -> Result<void> {
    void* const at = ::mmap(reinterpret_cast<void*>(address), size, prot, MAP_SHARED | flags, memfd.get(), 0);
    if (at != reinterpret_cast<void*>(address)) return Error::from_errno(errno, "mmap of the gate");
    return {};
  };
  STASIS_TRY(map_at(GateMemory::total_size(), PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE));
  gate.address_ = address;
  STASIS_TRY(map_at(GateMemory::code_size(), PROT_READ | PROT_EXEC, MAP_FIXED));
  gate.memory_.set_remote(address);
  return gate;
}

NewProcess::NewProcess(NewProcess&& other) noexcept
    : gate_(other.gate_),
      pid_(other.pid_),
      report_signal_(other.report_signal_),
      threads_(std::move(other.threads_)),
      released_(std::exchange(other.released_, true)) {}

void NewProcess::kill() {
  if (!released_) ::kill(pid_.value(), SIGKILL);
}

NewProcess::~NewProcess() {
  if (released_) return;
  kill();
  // Whatever was made of it, threads that we never came to know included: the leader is reported last.
  for (;;) {
    int status = 0;
    const pid_t child = ::waitpid(-1, &status, __WALL);
    if (child < 0 && errno == EINTR) continue;
    if (child < 0 || (child == pid_.value() && !WIFSTOPPED(status))) return;
  }
}

Result<NewProcess> NewProcess::create(const RestartGate& gate, std::int32_t pid, int report_signal, Seccomp seccomp,
                                      const Patience& patience) {
  const std::array pids{pid};
  pid_t parent = ::getpid();
  const HostPid made =
      STASIS_TRY(kernel::clone3_process(0, SIGCHLD, std::span(pids).first(pid ? 1 : 0), wait_in_pause, &parent));
  NewProcess process(gate, made, report_signal);
  auto seized =
      TracedThread::seize(made, kernel::kExitKill | (seccomp == Seccomp::kSuspend ? kernel::kSuspendSeccomp : 0));
  if (!seized) {
    process.threads_.push_back(TracedThread::adopt(made));
    return Error(std::move(seized).error());
  }
  TracedThread& thread = process.threads_.emplace_back(std::move(*seized));
  STASIS_TRY(thread.interrupt());
  STASIS_TRY(thread.wait_stopped(patience));
  STASIS_TRY(thread.capture());
  Batch outlive = process.batch();
  outlive.call(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0);
  STASIS_TRY(process.run(outlive, patience));
  STASIS_TRY(outlive.check(0, "prctl(PR_SET_PDEATHSIG)"));
  return process;
}

Error pid_taken(std::int32_t pid, std::string_view what) {
  return Error(Errc::kPidTaken, fmt::format("{} id {} is in use", what, pid))
      .with_help("--pids namespace restores the program with its ids in a namespace of its own");
}

Result<NewProcess> NewProcess::bear(const Birth& birth, int report_signal, const Patience& patience) {
  Batch calls = batch();
  kernel::CloneArgs args;
  args.flags = birth.flags | CLONE_PTRACE;
  // A sibling gets its creator's.
  args.exit_signal = birth.flags & CLONE_PARENT ? 0 : static_cast<std::uint64_t>(birth.exit_signal);
  args.set_tid = birth.pid ? calls.put(birth.pid).remote : 0;
  args.set_tid_size = birth.pid ? 1 : 0;
  const std::size_t call = calls.call(SYS_clone3, calls.put(args), sizeof args);
  STASIS_TRY(run(calls, patience));
  const auto made = calls.check(call, fmt::format("clone3 of process {}", birth.pid));
  if (!made && made.error().sys_errno() == EEXIST) return pid_taken(birth.pid, "process");
  if (!made) return Error(made.error());
  const HostPid pid(static_cast<std::int32_t>(*made));
  NewProcess child(*gate_, pid, report_signal);
  child.threads_.push_back(TracedThread::adopt(pid));
  STASIS_TRY(child.leader().wait_stopped(patience));
  STASIS_TRY(child.leader().capture_clone_of(leader()));
  return child;
}

void NewProcess::prepare_slot(const TracedThread& thread, const GateSlot& slot) const {
  arch::GateControl& control = slot.control();
  control = {};
  control.tgid = pid_.value();
  control.tid = thread.tid().value();
  control.signal = report_signal_;
  control.report.si_signo = report_signal_;
  control.report.si_code = arch::kReportCode;
}

Result<void> NewProcess::run(const Batch& batch, const Patience& patience) { return run_in(0, batch, patience); }

Result<void> NewProcess::run_in(std::size_t index, const Batch& batch, const Patience& patience) {
  STASIS_TRY(start(threads_[index], batch));
  return threads_[index].await_report(patience);
}

Result<void> NewProcess::create_threads(std::span<const ThreadSpec> threads, const Patience& patience) {
  constexpr std::uint64_t kThreadFlags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE;
  while (!threads.empty()) {
    Batch calls = batch();
    std::size_t count = 0;
    while (count < threads.size() && calls.has_room(1, sizeof(kernel::CloneArgs) + 64)) {
      const ThreadSpec& spec = threads[count];
      const auto tid = calls.put(spec.tid);
      kernel::CloneArgs args;
      args.flags = kThreadFlags | (spec.clear_child_tid ? std::uint64_t{CLONE_CHILD_CLEARTID} : 0);
      args.child_tid = spec.clear_child_tid;
      args.set_tid = spec.tid ? tid.remote : 0;
      args.set_tid_size = spec.tid ? 1 : 0;
      calls.call(SYS_clone3, calls.put(args), sizeof args);
      ++count;
    }
    STASIS_TRY(run(calls, patience));
    for (std::size_t i = 0; i < count; ++i) {
      const auto made = calls.check(i, fmt::format("clone3 of thread {}", threads[i].tid));
      if (!made && made.error().sys_errno() == EEXIST) {
        return pid_taken(threads[i].tid, "thread");
      }
      if (!made) return Error(made.error());
      TracedThread thread = TracedThread::adopt(HostPid(static_cast<std::int32_t>(*made)));
      STASIS_TRY(take_over(std::move(thread), patience));
    }
    threads = threads.subspan(count);
  }
  return {};
}

Result<void> NewProcess::take_over(TracedThread thread, const Patience& patience) {
  threads_.push_back(std::move(thread));
  STASIS_TRY(threads_.back().wait_stopped(patience));
  return threads_.back().capture_clone_of(leader());
}

// Let go first: nobody can be let go of once it is a zombie, and its end must be reported to its own parent.
Result<void> NewProcess::end_leader(std::uint64_t insn, int status, const Patience& patience) {
  STASIS_INVARIANT(threads_.size() > 1 && leader().tid() == pid_);
  constexpr useconds_t kPause = 50;
  const kernel::ProcDir proc = STASIS_TRY(kernel::ProcDir::open(pid_));
  TracedThread& ending = leader();
  ending.registers = arch::with_syscall(ending.registers, insn, SYS_exit, {static_cast<std::uint64_t>(status)});
  ending.signal_mask = ~std::uint64_t{0};
  STASIS_TRY(ending.put_back());
  ending.detach();
  threads_.erase(threads_.begin());
  while (!STASIS_TRY(proc.stat()).zombie()) {
    STASIS_TRY(patience.check());
    ::usleep(kPause);
  }
  return {};
}

Result<void> NewProcess::run_in_each_thread(const ThreadBatch& build, const ThreadBatch& collect,
                                            const Patience& patience) {
  for (std::size_t first = 0; first < threads_.size(); first += GateMemory::kSmallSlots) {
    const std::size_t count = std::min(GateMemory::kSmallSlots, threads_.size() - first);
    std::vector<Batch> batches;
    for (std::size_t i = 0; i < count; ++i) {
      TracedThread& thread = threads_[first + i];
      Batch& batch = batches.emplace_back(gate_->memory().small_slot(i), Batch::OnError::kStop);
      prepare_slot(thread, batch.slot());
      STASIS_TRY(build(first + i, batch));
      arch::set_stack_pointer(thread.registers, 0);
      STASIS_TRY(thread.start(gate_->memory(), batch, report_signal_));
    }
    for (std::size_t i = 0; i < count; ++i) {
      STASIS_TRY(threads_[first + i].await_report(patience));
      STASIS_TRY(collect(first + i, batches[i]));
    }
  }
  return {};
}

Result<void> NewProcess::begin_drop_gate(std::uint64_t insn) {
  return leader().begin_call(insn, 0, SYS_munmap, {gate_->address(), gate_->size()});
}

Result<void> NewProcess::enter_drop_gate(const Patience& patience) { return leader().enter_call(patience); }

Result<void> NewProcess::finish_drop_gate(const Patience& patience) {
  const std::int64_t result = STASIS_TRY(leader().finish_call(patience));
  if (result < 0) return Error::from_errno(static_cast<int>(-result), "munmap of the gate");
  return {};
}

Result<void> NewProcess::set_final_state(TracedThread& thread) {
  STASIS_TRY(kernel::ptrace_set_regset(thread.tid(), NT_X86_XSTATE, thread.xstate));
  return thread.put_back();
}

void NewProcess::release(Run how) {
  released_ = true;
  if (how == Run::kStopped) ::kill(pid_.value(), SIGSTOP);
  // The leader last: it must not see its threads traced any more.
  for (TracedThread& thread : threads_ | std::views::reverse) thread.detach();
}

Result<void> NewProcess::stop(const Patience& patience) {
  STASIS_TRY(kernel::send_thread_signal(pid_, pid_, SIGSTOP));
  for (TracedThread& thread : threads_) STASIS_TRY(thread.enter_group_stop(patience));
  return {};
}

Result<void> NewProcess::send_continue() {
  if (::kill(pid_.value(), SIGCONT) != 0) return Error::from_errno(errno, "SIGCONT");
  return {};
}

Result<void> NewProcess::end(int wait_status, const Patience& patience) {
  Batch calls = batch();
  if (WIFEXITED(wait_status)) {
    calls.call(SYS_exit_group, WEXITSTATUS(wait_status));
    STASIS_TRY(start(leader(), calls));
    STASIS_TRY(leader().await_end(patience));
  } else {
    const rlimit none{};
    calls.call(SYS_setrlimit, RLIMIT_CORE, calls.put(none));
    // What the coordinator ignores, its children do.
    const std::array<std::uint64_t, 4> by_default{};
    calls.call(SYS_rt_sigaction, WTERMSIG(wait_status), calls.put(by_default), 0, sizeof(std::uint64_t));
    STASIS_TRY(run(calls, patience));
    STASIS_TRY(leader().die_by(WTERMSIG(wait_status), patience));
  }
  released_ = true;
  return {};
}

Result<void> NewProcess::start(TracedThread& thread, const Batch& batch) {
  prepare_slot(thread, batch.slot());
  arch::set_stack_pointer(thread.registers, 0);  // sigaltstack(2) looks at it
  return thread.start(gate_->memory(), batch, report_signal_);
}

Result<void> NewProcess::reap(HostPid child, const Patience& patience) {
  Batch calls = batch();
  const std::size_t call = calls.call(SYS_wait4, child.value(), 0, __WALL, 0);
  STASIS_TRY(run(calls, patience));
  STASIS_TRY(calls.check(call, "wait4"));
  return forget_child_signal(patience);
}

Result<void> NewProcess::forget_child_signal(const Patience& patience) {
  Batch calls = batch();
  const std::uint64_t set = std::uint64_t{1} << (SIGCHLD - 1);
  const timespec now{};
  calls.call(SYS_rt_sigtimedwait, calls.put(set), 0, calls.put(now), sizeof set);  // EAGAIN: there is none
  return run(calls, patience);
}

}  // namespace stasis
