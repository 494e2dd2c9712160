// SPDX-License-Identifier: Apache-2.0
#include "tracee/thread.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "base/panic.h"
#include "kernel/proc_stat.h"
#include "kernel/thread_signal.h"
#include "kernel/vfork.h"

namespace stasis {
namespace {

constexpr std::size_t kXstateLimit = std::size_t{64} << 10;

Error gone(HostPid tid) {
  return Error(Errc::kTargetLost, fmt::format("thread {} ended while Stasis held it", tid.value()));
}

Error in_vfork(HostPid tid) {
  return Error(Errc::kUnsupportedTask,
               fmt::format("thread {} waits in vfork for its child to run another program", tid.value()))
      .with_help("try again in a moment");
}

// Between the start of a foreign call and its end nothing may be given up: a request that fails for once is made again.
template <class Request>
auto stubbornly(Request request) {
  constexpr int kTries = 3;
  auto result = request();
  for (int i = 1; i < kTries && !result; ++i) {
    const Errc code = result.error().code();
    if (code == Errc::kVanished || code == Errc::kInterrupted) break;
    result = request();
  }
  return result;
}

bool is_zombie(HostPid tid) {
  const auto text = read_file(AT_FDCWD, fmt::format("/proc/{}/stat", tid.value()));
  const auto stat = text ? kernel::parse_stat(*text) : Result<kernel::ProcStat>(text.error());
  return stat && stat->zombie();
}

std::span<const std::byte> as_bytes(const arch::Registers& registers) {
  return std::as_bytes(std::span(&registers, 1));
}

}  // namespace

Result<TracedThread> TracedThread::seize(HostPid tid, std::uint64_t options) {
  STASIS_TRY(kernel::ptrace_seize(tid, options | kernel::kTraceSysGood));
  return TracedThread(tid);
}

TracedThread TracedThread::adopt(HostPid tid) { return TracedThread(tid); }

Result<void> TracedThread::interrupt() { return kernel::ptrace_interrupt(tid_); }

Result<kernel::WaitStatus> TracedThread::wait(const Patience& patience) {
  for (;;) {
    auto status = stubbornly([&] { return kernel::wait_task(tid_, kernel::WaitMode::kBlock); });
    if (status && *status) {
      state_ = (*status)->stopped() ? State::kStopped : State::kGone;
      if (state_ == State::kGone) return gone(tid_);
      return **status;
    }
    if (!status && status.error().code() == Errc::kVanished) {
      state_ = State::kGone;
      return gone(tid_);
    }
    if (!status && status.error().code() != Errc::kInterrupted) return Error(std::move(status).error());
    // A leader that died is reported only when all its threads were waited for: it may be that nothing ever comes.
    if (is_zombie(tid_)) {
      state_ = State::kGone;
      return gone(tid_);
    }
    if (kernel::waits_for_vfork(tid_)) return in_vfork(tid_);
    STASIS_TRY(patience.check());
  }
}

// A system call that has begun is carried to its end, whoever has lost his patience: its result would be lost, and with
// it what it made. (Each tick of the patience ends a wait.)
Result<kernel::WaitStatus> TracedThread::wait_through(const Patience& patience) {
  constexpr int kTicks = 100;
  for (int i = 0;; ++i) {
    auto status = wait(patience);
    const bool impatient =
        !status && (status.error().code() == Errc::kInterrupted || status.error().code() == Errc::kTimeout);
    if (!impatient || i == kTicks) return status;
  }
}

Result<void> TracedThread::wait_stopped(const Patience& patience) {
  while (state_ == State::kRunning) {
    const kernel::WaitStatus status = STASIS_TRY(wait(patience));
    if (status.event_stop()) {
      group_stopped_ = status.group_stop();
      return {};
    }
    // A signal arrived first: deliver it, the stop we asked for follows.
    STASIS_TRY(kernel::ptrace_cont(tid_, status.event() == 0 ? status.stop_signal() & 0x7f : 0));
    state_ = State::kRunning;
  }
  return state_ == State::kStopped ? Result<void>() : Result<void>(gone(tid_));
}

Result<void> TracedThread::capture() {
  STASIS_TRY(kernel::ptrace_get_regset(tid_, NT_PRSTATUS, std::as_writable_bytes(std::span(&registers, 1))));
  xstate.resize(kXstateLimit);
  const std::size_t size = STASIS_TRY(kernel::ptrace_get_regset(tid_, NT_X86_XSTATE, xstate));
  xstate.resize(size);
  xstate.shrink_to_fit();
  signal_mask = STASIS_TRY(kernel::ptrace_get_sigmask(tid_));
  return {};
}

Result<void> TracedThread::block_signals(int except) {
  if (allowed_signal_ == except) return {};
  STASIS_TRY(kernel::ptrace_set_sigmask(tid_, except ? ~(std::uint64_t{1} << (except - 1)) : ~std::uint64_t{0}));
  allowed_signal_ = except;
  return {};
}

Result<void> TracedThread::start(const GateMemory& gate, const Batch& batch, int report_signal) {
  STASIS_INVARIANT(state_ == State::kStopped);
  const GateSlot& slot = batch.slot();
  slot.control().stop_on_error = batch.on_error() == Batch::OnError::kStop;
  auto entry = arch::with_thunk(registers, gate.thunk(), slot.remote, batch.remote_ops(),
                                static_cast<std::uint64_t>(batch.size()));
  if (batch.tile_configuration()) entry = arch::touching_tiles(entry, batch.tile_configuration());
  STASIS_TRY(kernel::ptrace_set_regset(tid_, NT_PRSTATUS, as_bytes(entry)));
  STASIS_TRY(block_signals(report_signal));
  report_signal_ = report_signal;
  STASIS_TRY(kernel::ptrace_cont(tid_));
  state_ = State::kRunning;
  return {};
}

Result<void> TracedThread::pass_over(kernel::WaitStatus status, int report_signal,
                                     Result<void> (*resume)(HostPid, int)) {
  int deliver = 0;
  if (status.event() == 0) {
    const int signal = status.stop_signal() & 0x7f;
    const bool fault = signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGTRAP ||
                       signal == SIGFPE || signal == SIGSYS;
    if (fault)
      return Error(Errc::kInternal, fmt::format("thread {} got signal {} inside the gate", tid_.value(), signal));
    // SIGSTOP can't be blocked. It takes effect at once, as the kernel has it: our calls run in a stopped process as
    // well, and a SIGCONT, whenever it comes, ends the stop. Held back and sent again, it would undo a SIGCONT in
    // between.
    if (signal == SIGSTOP) {
      deliver = signal;
    } else if (signal != report_signal || (signal_mask >> (signal - 1) & 1)) {
      // The report signal may also come from others: sent again once the thread is its own.
      held_signals_.push_back(signal);
    }
  }
  STASIS_TRY(resume(tid_, deliver));
  state_ = State::kRunning;
  return {};
}

Result<void> TracedThread::await_report(const Patience& patience) {
  for (;;) {
    const kernel::WaitStatus status = STASIS_TRY(wait(patience));
    if (status.event() == 0 && status.stop_signal() == report_signal_) {
      const siginfo_t info = STASIS_TRY(kernel::ptrace_get_siginfo(tid_));
      if (info.si_code == arch::kReportCode) return {};
    }
    STASIS_TRY(pass_over(status, report_signal_, kernel::ptrace_cont));
  }
}

Result<std::int64_t> TracedThread::single_call(std::uint64_t insn, std::uint64_t stack, long nr,
                                               const std::array<std::uint64_t, 6>& args, const Patience& patience) {
  STASIS_INVARIANT(state_ == State::kStopped);
  arch::Registers call = arch::with_syscall(registers, insn, nr, args);
  arch::set_stack_pointer(call, stack);
  STASIS_TRY(stubbornly([&] { return kernel::ptrace_set_regset(tid_, NT_PRSTATUS, as_bytes(call)); }));
  STASIS_TRY(stubbornly([&] { return block_signals(0); }));
  for (int stops = 0; stops < 2; ++stops) {  // entry, exit
    STASIS_TRY(stubbornly([&] { return kernel::ptrace_syscall(tid_); }));
    state_ = State::kRunning;
    kernel::WaitStatus status = STASIS_TRY(wait_through(patience));
    while (!status.syscall_stop()) {
      STASIS_TRY(pass_over(status, 0, kernel::ptrace_syscall));
      status = STASIS_TRY(wait_through(patience));
    }
  }
  STASIS_TRY(stubbornly(
      [&] { return kernel::ptrace_get_regset(tid_, NT_PRSTATUS, std::as_writable_bytes(std::span(&call, 1))); }));
  return arch::syscall_result(call);
}

Result<std::int64_t> TracedThread::start_and_interrupt(std::uint64_t insn, long nr,
                                                       const std::array<std::uint64_t, 6>& args,
                                                       const Patience& patience) {
  arch::Registers call = arch::with_syscall(registers, insn, nr, args);
  STASIS_TRY(kernel::ptrace_set_regset(tid_, NT_PRSTATUS, as_bytes(call)));
  STASIS_TRY(block_signals(0));
  STASIS_TRY(kernel::ptrace_syscall(tid_));
  state_ = State::kRunning;
  kernel::WaitStatus status = STASIS_TRY(wait(patience));
  while (!status.syscall_stop()) {
    STASIS_TRY(pass_over(status, 0, kernel::ptrace_syscall));
    status = STASIS_TRY(wait(patience));
  }
  // At the entry: with the interruption already pending the call begins, and ends as soon as it would wait.
  STASIS_TRY(kernel::ptrace_interrupt(tid_));
  STASIS_TRY(kernel::ptrace_cont(tid_));
  state_ = State::kRunning;
  STASIS_TRY(wait_stopped(patience));
  STASIS_TRY(kernel::ptrace_get_regset(tid_, NT_PRSTATUS, std::as_writable_bytes(std::span(&call, 1))));
  return arch::syscall_result(call);
}

Result<void> TracedThread::put_back() {
  if (state_ != State::kStopped) return gone(tid_);
  STASIS_TRY(stubbornly([&] { return kernel::ptrace_set_sigmask(tid_, signal_mask); }));
  allowed_signal_ = -1;
  return stubbornly([&] { return kernel::ptrace_set_regset(tid_, NT_PRSTATUS, as_bytes(registers)); });
}

void TracedThread::await_stop_briefly() {
  const Patience moment(std::chrono::seconds(2), nullptr);
  for (;;) {
    const auto stopped = wait_stopped(moment);
    if (stopped) return;
    log::debug("tracee", "{}", stopped.error().message());
    // In vfork: its child, let go already, is about to run another program.
    if (stopped.error().code() != Errc::kUnsupportedTask || !moment.check()) return;
  }
}

Result<void> TracedThread::die_by(int signal, const Patience& patience) {
  STASIS_TRY(kernel::ptrace_set_sigmask(tid_, 0));
  STASIS_TRY(kernel::send_thread_signal(tid_, tid_, signal));
  STASIS_TRY(kernel::ptrace_cont(tid_));
  state_ = State::kRunning;
  return await_end(patience);
}

Result<void> TracedThread::enter_group_stop(const Patience& patience) {
  STASIS_INVARIANT(state_ == State::kStopped);
  int deliver = 0;
  for (;;) {
    STASIS_TRY(kernel::ptrace_cont(tid_, deliver));
    state_ = State::kRunning;
    const kernel::WaitStatus status = STASIS_TRY(wait(patience));
    if (status.group_stop()) break;
    const int signal = status.event() == 0 ? status.stop_signal() & 0x7f : 0;
    deliver = signal == SIGSTOP ? SIGSTOP : 0;
    if (signal != 0 && signal != SIGSTOP) held_signals_.push_back(signal);
  }
  group_stopped_ = true;
  return {};
}

Result<void> TracedThread::await_end(const Patience& patience) {
  while (state_ != State::kGone) {
    const auto status = wait(patience);
    if (!status && state_ != State::kGone) return Error(status.error());
    if (!status) break;
    STASIS_TRY(kernel::ptrace_cont(tid_, status->event() == 0 ? status->stop_signal() & 0x7f : 0));
    state_ = State::kRunning;
  }
  return {};
}

void TracedThread::wait_gone() {
  while (state_ != State::kGone) {
    const auto status = stubbornly([this] { return kernel::wait_task(tid_, kernel::WaitMode::kBlock); });
    if (!status && status.error().code() != Errc::kInterrupted) state_ = State::kGone;
    if (status && *status && !(*status)->stopped()) state_ = State::kGone;
  }
}

void TracedThread::kill() {
  const auto sent = stubbornly([this] { return kernel::send_thread_signal(tid_, tid_, SIGKILL); });
  if (sent) wait_gone();
  state_ = State::kGone;
}

void TracedThread::detach() {
  if (state_ == State::kGone) return;
  if (auto result = kernel::ptrace_detach(tid_); !result) log::debug("tracee", "{}", result.error().message());
  state_ = State::kGone;
}

}  // namespace stasis
