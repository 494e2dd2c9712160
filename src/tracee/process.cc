// SPDX-License-Identifier: Apache-2.0
#include "tracee/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ranges>

#include "arch/x86_64/sigframe.h"
#include "base/log.h"
#include "base/panic.h"
#include "kernel/pidfd.h"
#include "kernel/thread_signal.h"
#include "kernel/vfork.h"
#include "tracee/batch_transfer.h"
#include "tracee/heal_area.h"

namespace stasis {
namespace {

constexpr int kLastResortSignal = SIGURG;

constexpr std::uint64_t bit(int signal) { return std::uint64_t{1} << (signal - 1); }

}  // namespace

Result<std::unique_ptr<TracedProcess>> TracedProcess::attach(HostPid pid, Seccomp seccomp) {
  return attach(STASIS_TRY(kernel::ProcDir::open(pid)), seccomp);
}

Result<std::unique_ptr<TracedProcess>> TracedProcess::attach(kernel::ProcDir proc, Seccomp seccomp) {
  const HostPid pid = proc.pid();
  std::unique_ptr<TracedProcess> process(new TracedProcess(pid, std::move(proc)));
  process->options_ = seccomp == Seccomp::kSuspend ? kernel::kSuspendSeccomp : 0;
  process->pidfd_ = STASIS_TRY(kernel::pidfd_open(pid));
  STASIS_TRY(process->attach_new_threads());
  if (process->threads_.empty())
    return Error(Errc::kVanished, fmt::format("pid {} has no live thread any more", pid.value()));
  return process;
}

TracedProcess::~TracedProcess() {
  if (auto result = resume(); !result) log::info("tracee", "{}", result.error().message());
}

// One that did not stop in time could not be let go then: we trace it still.
bool TracedProcess::left_over_from_before(HostPid tid) const {
  const auto status = proc_.thread_status(tid);
  return status && status->tracer_pid == ::gettid();
}

// Seizes the threads that are not ours yet; says whether there was one.
Result<bool> TracedProcess::attach_new_threads() {
  bool found = false;
  for (const HostPid tid : STASIS_TRY(proc_.threads())) {
    if (std::ranges::find(threads_, tid, &TracedThread::tid) != threads_.end()) continue;
    auto thread = TracedThread::seize(tid, options_);
    if (!thread && left_over_from_before(tid)) thread = TracedThread::adopt(tid);
    if (!thread && thread.error().code() == Errc::kVanished) continue;
    // A leader that has ended while others live.
    if (!thread && tid == pid_ && STASIS_TRY(proc_.stat()).zombie()) continue;
    if (!thread) return std::move(thread).error().note(fmt::format("pid {} thread {}", pid_.value(), tid.value()));
    threads_.push_back(std::move(*thread));
    found = true;
    if (auto asked = threads_.back().interrupt(); !asked && asked.error().code() != Errc::kVanished) {
      return Error(std::move(asked).error());
    }
  }
  return found;
}

// The kernel counts the threads of a process among the links of their directory. REQUIRES: all of ours stand, so that
// each is counted.
bool TracedProcess::holds_all_threads() const {
  const auto stat = proc_.link_stat("task");
  return stat && stat->st_nlink == threads_.size() + 2;
}

void TracedProcess::forget_gone_threads() {
  std::erase_if(threads_, [](const TracedThread& thread) { return thread.state() == TracedThread::State::kGone; });
}

Result<void> TracedProcess::settle(const Patience& patience) {
  do {
    for (TracedThread& thread : threads_) {
      auto stopped = thread.wait_stopped(patience);
      if (!stopped && stopped.error().code() != Errc::kTargetLost) return stopped;
    }
    forget_gone_threads();
    if (threads_.empty()) return Error(Errc::kVanished, fmt::format("pid {} ended", pid_.value()));
  } while (!holds_all_threads() && STASIS_TRY(attach_new_threads()));
  // The others stay as the kernel lists them, the oldest first, whatever their numbers: where a leader has ended, its
  // children are the oldest thread's, and die with that one if they are to die with their parent.
  std::ranges::stable_partition(threads_, [this](const TracedThread& thread) { return thread.tid() == pid_; });
  for (TracedThread& thread : threads_) STASIS_TRY(thread.capture());
  // A leader that stands lives.
  if (threads_.front().tid() != pid_ || proc_.leader_has_ended()) STASIS_TRY(proc_.look_again());
  if (proc_.leader_has_ended()) files_pidfd_ = STASIS_TRY(kernel::pidfd_open_thread(proc_.live_tid()));
  // Not before: a process that runs another program has other memory, and what was opened stays with the old one.
  memory_ = STASIS_TRY(kernel::ProcessMemory::open(proc_));
  settled_ = true;
  return {};
}

std::pair<std::uint64_t, std::uint64_t> TracedProcess::gate_range() const {
  return {gate_.remote(), gate_.remote() ? gate_.remote() + GateMemory::total_size() : 0};
}

Result<void> TracedProcess::suspend_late_seccomp(std::uint32_t mode) {
  if (mode == 0 || (options_ & kernel::kSuspendSeccomp) != 0) return {};
  for (const TracedThread& thread : threads_) {
    const auto set = kernel::ptrace_set_options(thread.tid(), kernel::kTraceSysGood | kernel::kSuspendSeccomp);
    if (set) continue;
    return Error(Errc::kSeccomp, fmt::format("process {} came under seccomp a moment ago", pid_.value()))
        .with_help("try again");
  }
  options_ |= kernel::kSuspendSeccomp;
  return {};
}

// A signal that the program ignores now, does not wait for, and has none of pending: it can be queued without being
// noticed.
Result<void> TracedProcess::choose_report_signal(const kernel::ProcStatus& status) {
  inner_tgid_ = status.ns_tgid.empty() ? pid_.value() : status.ns_tgid.back();
  own_pid_namespace_ = status.ns_tgid.size() > 1;
  const std::uint64_t ignored_by_default = bit(SIGURG) | bit(SIGWINCH) | bit(SIGCHLD);
  std::uint64_t usable = (status.sig_ignored | ignored_by_default) & ~status.sig_caught;
  usable &= ~(bit(SIGKILL) | bit(SIGSTOP) | bit(SIGCONT) | bit(SIGTRAP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU));
  usable &= ~(bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGFPE) | bit(SIGSYS));
  usable &= ~(status.sig_pending | status.sig_shared_pending);
  for (const TracedThread& thread : threads_) usable &= ~thread.signal_mask;
  for (const int preferred : {SIGURG, SIGWINCH, SIGPIPE, SIGXFSZ, SIGCHLD}) {
    if (!(usable & bit(preferred))) continue;
    report_signal_ = preferred;
    return {};
  }
  report_signal_ = usable ? std::countr_zero(usable) + 1 : kLastResortSignal;
  must_borrow_ = usable == 0;
  return {};
}

Result<void> TracedProcess::begin(const UnguardedCall& call) {
  const bool safe = stack_frame_ != 0;
  const std::uint64_t insn = safe ? gadgets_.syscall_return : gadgets_.syscall;
  const std::uint64_t stack = safe ? stack_frame_ : arch::stack_pointer(carrier().registers);
  return carrier().begin_call(insn, stack, call.nr, call.args);
}

// Every call that was begun is carried to its end.
void TracedProcess::run_side_by_side(std::span<UnguardedCall> calls, const Patience& patience) {
  const auto step = [&](const auto& take) {
    for (UnguardedCall& call : calls) {
      if (call.result) take(call);
    }
  };
  const auto note = [](UnguardedCall& call, Result<void> done) {
    if (!done) call.result = Error(std::move(done).error());
  };
  step([&](UnguardedCall& call) { note(call, call.process->begin(call)); });
  step([&](UnguardedCall& call) { note(call, call.process->carrier().enter_call(patience)); });
  step([&](UnguardedCall& call) { call.result = call.process->carrier().finish_call(patience); });
}

Result<std::int64_t> TracedProcess::unguarded_call(long nr, const std::array<std::uint64_t, 6>& args,
                                                   const Patience& patience) {
  UnguardedCall call{.process = this, .nr = nr, .args = args};
  run_side_by_side(std::span(&call, 1), patience);
  return std::move(call.result);
}

// Below the red zone of the carrier, if it runs on the main stack: a frame that returns it to where it was. Without it
// the few calls that follow are not protected against a kill -9 of ours.
Result<void> TracedProcess::place_stack_frame(const std::vector<kernel::Vma>& vmas) {
  TracedThread& thread = carrier();
  const std::uint64_t sp = arch::stack_pointer(thread.registers);
  const kernel::Vma* const stack = kernel::find_vma(vmas, sp);
  if (!stack || !stack->writable()) return {};
  const std::size_t needed = arch::kRedZone + arch::sigframe_size(thread.xstate) + 64;
  if (!gadgets_.safe() || stack->path != "[stack]" || sp - stack->start < needed) return {};
  const arch::SigframeInput input{.registers = thread.registers,
                                  .xstate = thread.xstate,
                                  .signal_mask = thread.signal_mask,
                                  .return_address = gadgets_.restorer};
  const auto frame = STASIS_TRY(arch::make_sigframe_below(input, sp - arch::kRedZone));
  STASIS_TRY(memory_->write(frame.address, frame.bytes));
  stack_frame_ = frame.address;
  return {};
}

// Control block, healing area and frame of a slot, as prepared in our copy.
Result<void> TracedProcess::push_slot(const GateSlot& slot) const {
  const Batch::Extent all{.begin = 0, .end = Batch::kArenaOffset};
  return push_parts(*memory_, slot, std::span(&all, 1));
}

// How the carrier leaves if we are killed: with the gate, or, while other threads are inside, without.
Result<void> TracedProcess::set_way_out(LeaveBy way) {
  const GateSlot slot = gate_.carrier_slot();
  arch::GateControl& control = slot.control();
  const bool unmapping = way == LeaveBy::kUnmapping && stack_frame_ != 0;
  if (unmapping == (control.leave_by != 0)) return {};
  const arch::SigframeInput input{
      .registers = carrier().registers, .xstate = carrier().xstate, .signal_mask = carrier().signal_mask};
  const auto frame = STASIS_TRY(arch::make_sigframe_above(input, slot.remote + kFrameOffset));
  control.leave_by = unmapping ? gadgets_.syscall_return : 0;
  control.heal_frame_stack = unmapping ? stack_frame_ : arch::sigreturn_stack_pointer(frame.address);
  return memory_->write(slot.remote + offsetof(arch::GateControl, heal_frame_stack),
                        std::as_bytes(std::span(&control.heal_frame_stack, 2)));
}

Result<void> TracedProcess::borrow_report_signal(const Patience& patience) {
  const GateSlot slot = gate_.carrier_slot();
  HealArea& area = heal_area(slot);
  area.ignore = {reinterpret_cast<std::uint64_t>(SIG_IGN), 0, 0, 0};
  area.report_action = {};
  const auto program = remote_heal_area(slot, offsetof(HealArea, report_action));
  const auto signal = static_cast<std::uint64_t>(report_signal_);
  STASIS_TRY(push_slot(slot));
  const auto ask = [&](std::uint64_t action, std::uint64_t old) -> Result<void> {
    const std::int64_t result =
        STASIS_TRY(unguarded_call(SYS_rt_sigaction, {signal, action, old, kSigsetSize}, patience));
    if (result >= 0) return {};
    return Error::from_errno(static_cast<int>(-result), fmt::format("rt_sigaction in process {}", pid_.value()));
  };
  STASIS_TRY(ask(0, program));
  STASIS_TRY(memory_->read(program, std::as_writable_bytes(std::span(area.report_action))));
  borrowed_action_ = area.report_action;
  // What gives it back stands before it is taken.
  area.operations.report_signal = {.nr = SYS_rt_sigaction, .args = {signal, program, 0, kSigsetSize}};
  STASIS_TRY(push_slot(slot));
  borrowed_ = true;
  return ask(remote_heal_area(slot, offsetof(HealArea, ignore)), 0);
}

Result<void> TracedProcess::close_if_killed(int fd) {
  const GateSlot slot = gate_.carrier_slot();
  heal_area(slot).operations.close = kNoHealOperation;
  if (fd >= 0) heal_area(slot).operations.close = {.nr = SYS_close, .args = {static_cast<std::uint64_t>(fd)}};
  return push_slot(slot);
}

Result<void> TracedProcess::give_signal_back(const Patience& patience) {
  const std::uint64_t program = remote_heal_area(gate_.carrier_slot(), offsetof(HealArea, report_action));
  STASIS_TRY(memory_->write(program, std::as_bytes(std::span(borrowed_action_))));
  const std::int64_t result =
      STASIS_TRY(unguarded_call(SYS_rt_sigaction, {std::uint64_t(report_signal_), program, 0, kSigsetSize}, patience));
  if (result < 0)
    return Error::from_errno(static_cast<int>(-result), fmt::format("rt_sigaction in process {}", pid_.value()));
  borrowed_ = false;
  return {};
}

Result<std::int32_t> TracedProcess::inner_tid(HostPid tid) const {
  if (tid == pid_) return inner_tgid_;
  if (!own_pid_namespace_) return tid.value();  // all threads of a process are in one
  const kernel::ProcStatus status = STASIS_TRY(proc_.thread_status(tid));
  return status.ns_pid.empty() ? tid.value() : status.ns_pid.back();
}

// Control block and healing frame of a thread in our copy of its slot: the part that the process has to get.
Result<Batch::Extent> TracedProcess::prepare_slot(TracedThread& thread, const GateSlot& slot) const {
  const arch::SigframeInput input{
      .registers = thread.registers, .xstate = thread.xstate, .signal_mask = thread.signal_mask};
  const auto frame = STASIS_TRY(arch::make_sigframe_above(input, slot.remote + kFrameOffset));
  STASIS_INVARIANT(frame.address + frame.bytes.size() <= slot.remote + Batch::kArenaOffset);
  std::ranges::copy(frame.bytes, slot.local + (frame.address - slot.remote));
  arch::GateControl& control = slot.control();
  control.tgid = inner_tgid_;
  control.tid = STASIS_TRY(inner_tid(thread.tid()));
  control.signal = report_signal_;
  const bool carriers = thread.tid() == carrier().tid();  // who undoes what was done for the whole process
  control.heal_ops = carriers ? remote_heal_area(slot, offsetof(HealArea, operations)) : 0;
  control.heal_count = carriers ? kHealOperations : 0;
  control.heal_frame_stack = arch::sigreturn_stack_pointer(frame.address);
  control.report = {};
  control.report.si_signo = report_signal_;
  control.report.si_code = arch::kReportCode;
  control.leave_by = 0;
  control.gate_start = gate_.remote();
  control.gate_size = GateMemory::total_size();
  return Batch::Extent{.begin = 0, .end = frame.address + frame.bytes.size() - slot.remote};
}

Result<void> TracedProcess::prepare_foreign_slot(const kernel::ProcessMemory& memory, const GateSlot& slot,
                                                 std::int64_t inner) {
  arch::GateControl& control = slot.control();
  control = {};
  control.tgid = control.tid = inner;
  control.signal = report_signal_;
  control.report.si_signo = report_signal_;
  control.report.si_code = arch::kReportCode;
  return memory.write(slot.remote, std::span(slot.local, sizeof control));
}

Result<void> TracedProcess::open_gate(const Gadgets& gadgets, const std::vector<kernel::Vma>& vmas,
                                      const Patience& patience) {
  const kernel::ProcStatus status = STASIS_TRY(proc_.status());
  const GateOrder order{.process = this, .gadgets = &gadgets, .vmas = &vmas, .status = &status};
  return open_gates(std::span(&order, 1), patience);
}

Result<void> TracedProcess::prepare_gate(const GateOrder& order) {
  STASIS_INVARIANT(settled_ && !gate_open());
  gadgets_ = *order.gadgets;
  if (!gadgets_.syscall) {
    return Error(Errc::kUnsupportedTask,
                 fmt::format("pid {}: no system-call instruction found in its code", pid_.value()));
  }
  STASIS_TRY(suspend_late_seccomp(order.status->zombie() ? 0 : order.status->seccomp));
  STASIS_TRY(choose_report_signal(*order.status));
  STASIS_TRY(place_stack_frame(*order.vmas));
  gate_to_be_ = STASIS_TRY(GateMemory::make_copy());
  return {};
}

// Writes into a gate that is mapped what belongs there.
Result<void> TracedProcess::furnish_gate(const Patience& patience) {
  STASIS_TRY(memory_->write(gate_.thunk(), arch::thunk_code()));
  HealArea& area = heal_area(gate_.carrier_slot());
  area.operations = {kNoHealOperation, kNoHealOperation, kNoHealOperation, kNoHealOperation, kNoHealOperation};
  const Batch::Extent slot = STASIS_TRY(prepare_slot(carrier(), gate_.carrier_slot()));
  STASIS_TRY(push_parts(*memory_, gate_.carrier_slot(), std::span(&slot, 1)));
  return must_borrow_ ? borrow_report_signal(patience) : Result<void>();
}

Result<void> TracedProcess::open_gates(std::span<const GateOrder> orders, const Patience& patience) {
  constexpr std::uint64_t kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
  constexpr std::uint64_t kNoFile = ~std::uint64_t{0};
  for (const GateOrder& order : orders) STASIS_TRY(order.process->prepare_gate(order));
  std::vector<UnguardedCall> calls;
  for (const GateOrder& order : orders) {
    calls.push_back(
        {.process = order.process,
         .nr = SYS_mmap,
         .args = {0, GateMemory::total_size(), PROT_READ | PROT_WRITE, kPrivate | MAP_NORESERVE, kNoFile, 0}});
  }
  const auto map = [&]() -> Result<void> {
    run_side_by_side(calls, patience);
    Result<void> first;
    for (UnguardedCall& call : calls) {
      TracedProcess& process = *call.process;
      if (call.result && *call.result < 0 && *call.result >= -4095) {
        call.result =
            Error::from_errno(static_cast<int>(-*call.result), fmt::format("mmap in process {}", process.pid_.value()));
      }
      if (!call.result && first) first = Error(call.result.error());
      if (!call.result || process.gate_open()) continue;
      process.gate_to_be_.set_remote(static_cast<std::uint64_t>(*call.result));
      process.gate_ = std::move(process.gate_to_be_);
    }
    return first;
  };
  STASIS_TRY(map());
  for (UnguardedCall& call : calls) {
    call.args = {
        call.process->gate_.remote(), GateMemory::code_size(), PROT_READ | PROT_EXEC, kPrivate | MAP_FIXED, kNoFile, 0};
  }
  STASIS_TRY(map());
  for (const GateOrder& order : orders) STASIS_TRY(order.process->furnish_gate(patience));
  return {};
}

Result<void> TracedProcess::run(const Batch& batch, const Patience& patience) {
  STASIS_TRY(set_way_out(LeaveBy::kUnmapping));
  STASIS_TRY(push_batch(*memory_, batch));
  STASIS_TRY(carrier().start(gate_, batch, report_signal_));
  STASIS_TRY(carrier().await_report(patience));
  return pull_batch(*memory_, batch);
}

Result<void> TracedProcess::start_round(std::size_t first, const ThreadBatch& build) {
  STASIS_TRY(set_way_out(threads_.size() > 1 ? LeaveBy::kSigreturn : LeaveBy::kUnmapping));
  const std::size_t count = std::min(GateMemory::kSmallSlots, threads_.size() - first);
  std::vector<SlotPart> parts;
  round_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    TracedThread& thread = threads_[first + i];
    const GateSlot slot = &thread == &carrier() ? gate_.carrier_slot() : gate_.small_slot(i);
    const Batch::Extent head = &thread == &carrier() ? kFirstWord : STASIS_TRY(prepare_slot(thread, slot));
    build(thread, round_.emplace_back(slot));
    slot.control().stop_on_error = round_.back().on_error() == Batch::OnError::kStop;
    parts.push_back({.slot = slot, .part = head});
    append_batch(parts, round_.back());
  }
  STASIS_TRY(push_parts(*memory_, parts));
  for (std::size_t i = 0; i < count; ++i) {
    STASIS_TRY(threads_[first + i].start(gate_, round_[i], report_signal_));
  }
  return {};
}

Result<void> TracedProcess::finish_round(std::size_t first, const ThreadBatch& collect, const Patience& patience) {
  std::vector<SlotPart> parts;
  for (std::size_t i = 0; i < round_.size(); ++i) {
    TracedThread& thread = threads_[first + i];
    STASIS_TRY(thread.await_report(patience));
    append_batch(parts, round_[i]);
  }
  STASIS_TRY(pull_parts(*memory_, parts));
  for (std::size_t i = 0; i < round_.size(); ++i) {
    TracedThread& thread = threads_[first + i];
    if (&thread != &carrier()) STASIS_TRY(thread.put_back());
  }
  // Nobody but the carrier is in the gate: if we die, it may take the gate along.
  STASIS_TRY(set_way_out(LeaveBy::kUnmapping));
  for (std::size_t i = 0; i < round_.size(); ++i) collect(threads_[first + i], round_[i]);
  return {};
}

Result<void> TracedProcess::start_in_each_thread(const ThreadBatch& build) { return start_round(0, build); }

Result<void> TracedProcess::finish_in_each_thread(const ThreadBatch& build, const ThreadBatch& collect,
                                                  const Patience& patience) {
  STASIS_TRY(finish_round(0, collect, patience));
  for (std::size_t first = GateMemory::kSmallSlots; first < threads_.size(); first += GateMemory::kSmallSlots) {
    STASIS_TRY(start_round(first, build));
    STASIS_TRY(finish_round(first, collect, patience));
  }
  return {};
}

Result<void> TracedProcess::run_in_each_thread(const ThreadBatch& build, const ThreadBatch& collect,
                                               const Patience& patience) {
  STASIS_TRY(start_in_each_thread(build));
  return finish_in_each_thread(build, collect, patience);
}

Result<void> TracedProcess::unmap_gate(const Patience& patience) {
  const std::int64_t result =
      STASIS_TRY(unguarded_call(SYS_munmap, {gate_.remote(), GateMemory::total_size()}, patience));
  if (result < 0)
    return Error::from_errno(static_cast<int>(-result), fmt::format("munmap in process {}", pid_.value()));
  gate_ = GateMemory();
  return {};
}

void TracedProcess::close_gates(std::span<TracedProcess* const> processes, const Patience& patience) {
  std::vector<UnguardedCall> calls;
  for (TracedProcess* const process : processes) {
    const auto stands = [](const TracedThread& thread) { return thread.state() == TracedThread::State::kStopped; };
    // What is still to be undone in it takes the gate.
    const bool owes = process->borrowed_ || process->children_ignored_;
    if (!process->gate_open() || owes || !std::ranges::all_of(process->threads_, stands)) continue;
    const auto put_back = [&](TracedThread& thread) { return &thread == &process->carrier() || thread.put_back(); };
    if (!std::ranges::all_of(process->threads_, put_back)) continue;
    calls.push_back(
        {.process = process, .nr = SYS_munmap, .args = {process->gate_.remote(), GateMemory::total_size()}});
  }
  run_side_by_side(calls, patience);
  for (const UnguardedCall& call : calls) {
    if (call.result && *call.result == 0) call.process->gate_ = GateMemory();
  }
}

Result<void> TracedProcess::restore(const Patience& patience) {
  Result<void> first;
  const auto note = [&](Result<void> result) {
    if (!result && first) first = std::move(result);
  };
  // A thread whose batch was broken off still runs in the gate: let it come to its end.
  for (TracedThread& thread : threads_) {
    if (thread.state() == TracedThread::State::kRunning && gate_open()) note(thread.await_report(patience));
  }
  forget_gone_threads();
  if (threads_.empty()) {
    drop_midwife();
    return first;
  }
  if (gate_open()) {
    for (TracedThread& thread : threads_) {
      if (&thread != &carrier()) note(thread.put_back());
    }
    note(end_midwife(patience));
    if (borrowed_ && !children_ignored_) note(give_signal_back(patience));
    // What fails for once is tried again by resume(), and giving the signals back takes the gate.
    if (!borrowed_ && !children_ignored_) note(unmap_gate(patience));
  }
  for (TracedThread& thread : threads_) note(thread.put_back());
  return first;
}

void TracedProcess::heed_children(const Patience& patience) {
  // Tried again where a call failed for once, as in resume().
  for (int attempt = 0; attempt < 3 && settled_ && children_ignored_ && gate_open(); ++attempt) {
    for (TracedThread& thread : threads_) {
      if (thread.state() == TracedThread::State::kRunning) (void)thread.await_report(patience);
    }
    forget_gone_threads();
    if (threads_.empty() || end_midwife(patience)) return;
  }
}

// Not all stopped, so nothing was done to any. Who sleeps in vfork keeps none of the others waiting.
void TracedProcess::let_unsettled_threads_go() {
  const auto late = std::ranges::stable_partition(
      threads_, [](const TracedThread& thread) { return !kernel::waits_for_vfork(thread.tid()); });
  for (TracedThread& thread : std::ranges::subrange(threads_.begin(), late.begin())) thread.await_stop_briefly();
  for (TracedThread& thread : std::ranges::subrange(threads_.begin(), late.begin())) thread.detach();
  for (TracedThread& thread : late) {
    thread.await_stop_briefly();
    thread.detach();
  }
}

// The leader goes last: it is the one that looks at its own process, and must not see its threads traced any more.
void TracedProcess::let_threads_go(int signal) {
  if (!settled_) return let_unsettled_threads_go();
  // Sent while all are stopped still: not one instruction of the program comes before what is pending now.
  if (signal != 0) (void)kernel::pidfd_send_signal(pidfd_.get(), signal);
  for (const TracedThread& thread : threads_) {
    for (const int held : thread.held_signals()) {
      if (auto sent = kernel::send_thread_signal(pid_, thread.tid(), held); !sent)
        log::debug("tracee", "{}", sent.error().message());
    }
  }
  for (TracedThread& thread : threads_ | std::views::reverse) thread.detach();
}

Result<void> TracedProcess::resume(int signal, const Patience* patience) {
  if (threads_.empty()) return {};
  std::optional<Patience> own;
  if (!patience) patience = &own.emplace(std::chrono::hours(1), nullptr);
  Result<void> result;
  // Put back again where a call failed for once (a fault test, a signal): nothing is lost by a second try.
  for (int attempt = 0; settled_ && attempt < 3; ++attempt) {
    result = restore(*patience);
    if (result) break;
  }
  let_threads_go(signal);
  threads_.clear();
  settled_ = false;
  return result;
}

void TracedProcess::kill() {
  if (threads_.empty()) return;
  (void)kernel::pidfd_send_signal(pidfd_.get(), SIGKILL);
  // The leader last: it can be waited for only when the others are gone.
  for (TracedThread& thread : threads_ | std::views::reverse) thread.wait_gone();
  drop_midwife();
  threads_.clear();
  gate_ = GateMemory();
  settled_ = false;
}

}  // namespace stasis
