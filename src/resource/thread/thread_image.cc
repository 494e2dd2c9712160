// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/thread_image.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <charconv>
#include <cstdio>
#include <cstring>

#include "arch/x86_64/xstate.h"
#include "kernel/robust_list.h"
#include "resource/signal/signal_actions.h"
#include "resource/thread/interrupted_call.h"
#include "resource/thread/rseq.h"

namespace stasis {
namespace {

using std::chrono::nanoseconds;

constexpr int kGetTidAddress = 40;  // PR_GET_TID_ADDRESS

std::uint64_t signal_set(std::span<const siginfo_t> pending) {
  std::uint64_t set = 0;
  for (const siginfo_t& info : pending) set |= std::uint64_t{1} << (info.si_signo - 1);
  return set;
}

// /proc/PID/task/TID/syscall: "running", or the number of the call in which the thread waits.
long waiting_in(const kernel::ProcDir& proc, HostPid tid) {
  const auto text = proc.read(fmt::format("task/{}/syscall", tid.value()));
  long number = -1;
  if (text) std::from_chars(text->data(), text->data() + text->size(), number);
  return number;
}

// A thread that was interrupted before waits in restart_syscall(2), with the arguments of the call it once made: which
// one that was, the kernel function it sleeps in tells.
long call_by_wait_channel(const kernel::ProcDir& proc, HostPid tid) {
  const auto text = proc.read(fmt::format("task/{}/wchan", tid.value()));
  if (!text) return -1;
  if (text->find("poll") != std::string::npos) return SYS_poll;
  if (text->find("futex") != std::string::npos) return SYS_futex;
  // What remains are sleeps; their functions belong to the scheduler, so that the channel is the system call itself.
  if (text->find("nanosleep") == std::string::npos && text->find("syscall") == std::string::npos) return -1;
  // nanosleep(2) has a pointer where clock_nanosleep(2) has the number of a clock.
  const auto call = proc.read(fmt::format("task/{}/syscall", tid.value()));
  unsigned long long first = 0;
  if (!call || std::sscanf(call->c_str(), "%*d %llx", &first) != 1) return -1;
  constexpr unsigned long long kFirstPage = 4096;
  return first < kFirstPage ? SYS_clock_nanosleep : SYS_nanosleep;
}

// When the run-queue clock of a CPU was zero. Leaves us on that CPU.
std::optional<std::chrono::steady_clock::time_point> origin_of_clock(int cpu, const kernel::ProcDir& self) {
  cpu_set_t only;
  CPU_ZERO(&only);
  if (cpu < 0 || cpu >= CPU_SETSIZE) return std::nullopt;
  CPU_SET(static_cast<std::size_t>(cpu), &only);
  if (::sched_setaffinity(0, sizeof only, &only) != 0) return std::nullopt;
  ::sched_yield();  // brings our own account up to date
  const auto own = self.thread_sched(HostPid(::gettid()));
  if (!own || !own->exec_start_ns) return std::nullopt;
  return std::chrono::steady_clock::now() - nanoseconds(*own->exec_start_ns);
}

// Sleeps that were given a place for it find the time that is left there, written at every interruption.
std::optional<nanoseconds> remainder_of_sleep(long number, const arch::Registers& registers, const ReadTimespec& read) {
  const auto args = arch::syscall_arguments(registers);
  const std::uint64_t place = number == SYS_nanosleep ? args[1] : number == SYS_clock_nanosleep ? args[3] : 0;
  return place ? read(place) : std::nullopt;
}

ReadTimespec reader_of_timespecs(const kernel::ProcessMemory& memory) {
  return [&memory](std::uint64_t address) -> std::optional<nanoseconds> {
    const auto value = memory.load(RemotePtr<timespec>(address));
    if (!value || value->tv_sec < 0 || value->tv_sec > INT32_MAX) return std::nullopt;
    return std::chrono::seconds(value->tv_sec) + nanoseconds(value->tv_nsec);
  };
}

ReadCode reader_of_code(const kernel::ProcessMemory& memory) {
  return [&memory](std::uint64_t end) -> std::optional<std::array<std::uint8_t, 32>> {
    const auto code = memory.load(RemotePtr<std::array<std::uint8_t, 32>>(end - 32));
    if (!code) return std::nullopt;
    return *code;
  };
}

}  // namespace

WaitTimes WaitTimes::look(const kernel::ProcDir& proc) {
  WaitTimes waits;
  const auto threads = proc.threads();
  if (!threads) return waits;
  std::map<HostPid, std::uint64_t> asleep_since;  // run-queue clock
  for (const HostPid tid : *threads) {
    const long number = waiting_in(proc, tid);
    if (number < 0 || (number != SYS_restart_syscall && !find_call_timeout(number))) continue;
    if (number == SYS_restart_syscall) waits.restarted_[tid] = call_by_wait_channel(proc, tid);
    const auto sched = proc.thread_sched(tid);
    if (sched && sched->exec_start_ns) asleep_since[tid] = *sched->exec_start_ns;
  }
  if (asleep_since.empty()) return waits;
  // The clock is the run queue's: it compares only with our own on the same CPU.
  cpu_set_t previous;
  const bool known = ::sched_getaffinity(0, sizeof previous, &previous) == 0;
  const auto self = kernel::ProcDir::open(HostPid(::getpid()));
  if (!known || !self) return waits;
  std::map<int, std::optional<std::chrono::steady_clock::time_point>> origins;  // when each CPU's clock was 0
  for (const auto& [tid, since] : asleep_since) {
    const auto stat = proc.thread_stat(tid);
    if (!stat) continue;
    const auto [origin, first] = origins.try_emplace(stat->processor);
    if (first) origin->second = origin_of_clock(stat->processor, *self);
    if (origin->second) waits.since_[tid] = *origin->second + nanoseconds(since);
  }
  ::sched_setaffinity(0, sizeof previous, &previous);
  return waits;
}

long WaitTimes::restarted_call(HostPid tid) const {
  const auto found = restarted_.find(tid);
  return found == restarted_.end() ? -1 : found->second;
}

nanoseconds WaitTimes::waited(HostPid tid) const {
  const auto found = since_.find(tid);
  return found == since_.end() ? nanoseconds(0) : nanoseconds(std::chrono::steady_clock::now() - found->second);
}

Result<InterruptedCallRecord> settle_thread(TracedProcess& process, TracedThread& thread, const WaitTimes& waits,
                                            std::uint64_t process_pending) {
  InterruptedCallRecord call;
  const arch::Registers before = thread.registers;
  STASIS_TRY(settle_rseq(process.memory(), thread));
  const auto pending = STASIS_TRY(kernel::ptrace_peek_siginfo(thread.tid(), kernel::SignalQueue::kThread));
  const std::uint64_t deliverable = (signal_set(pending) | process_pending) & ~thread.signal_mask;
  const bool rewind = must_rewind(thread.registers, deliverable ? Deliverable::kSome : Deliverable::kNone);
  if (rewind || arch::awaits_restart(thread.registers)) {
    call.number = waits.restarted_call(thread.tid());
    if (call.number < 0) call.number = waiting_call(thread.registers, reader_of_code(process.memory()));
    const auto timeout = relative_timeout(call.number, thread.registers, reader_of_timespecs(process.memory()));
    if (timeout) {
      const nanoseconds waited = waits.waited(thread.tid());
      call.elapsed_ns = static_cast<std::uint64_t>(std::min(waited, *timeout).count());
      const auto left = remainder_of_sleep(call.number, thread.registers, reader_of_timespecs(process.memory()));
      if (left && *left <= *timeout) call.elapsed_ns = static_cast<std::uint64_t>((*timeout - *left).count());
      if (rewind && waited >= *timeout) {
        arch::set_syscall_result(thread.registers, find_call_timeout(call.number)->when_over);
        arch::forget_syscall(thread.registers);
      }
    }
    if (rewind && arch::interrupted_syscall(thread.registers) >= 0) arch::rewind_syscall(thread.registers);
    call.rewound = rewind;
  }
  // From here on a kill -9 of ours leaves the thread with what it would have seen without us.
  if (std::memcmp(&before, &thread.registers, sizeof before) != 0) STASIS_TRY(thread.put_back());
  return call;
}

ThreadQuery::ThreadQuery(Batch& batch)
    : first_(batch.size()),
      clear_child_tid_(batch.array<std::uint64_t>(1)),
      altstack_(batch.array<stack_t>(1)),
      attributes_(
          (batch.call(SYS_prctl, kGetTidAddress, clear_child_tid_), batch.call(SYS_sigaltstack, 0, altstack_), batch)),
      credentials_(batch) {}

Result<ThreadRecord> ThreadQuery::take(const Batch& batch, const TracedProcess& process, const TracedThread& thread,
                                       CredentialsCache& credentials) const {
  ThreadRecord record;
  STASIS_TRY(batch.check(first_, "PR_GET_TID_ADDRESS"));
  STASIS_TRY(batch.check(first_ + 1, "sigaltstack"));
  const auto status =
      process.proc().pid() == thread.tid() ? process.proc().status() : process.proc().thread_status(thread.tid());
  if (!status) return Error(status.error());
  record.tid = ImagePid(status->ns_pid.empty() ? thread.tid().value() : status->ns_pid.back());
  const auto registers = std::as_bytes(std::span(&thread.registers, 1));
  record.registers.assign(registers.begin(), registers.end());
  const std::size_t used = arch::xstate_size(arch::xstate_in_use(thread.xstate));
  record.xstate.assign(thread.xstate.begin(),
                       thread.xstate.begin() + static_cast<std::ptrdiff_t>(std::min(used, thread.xstate.size())));
  record.signal_mask = thread.signal_mask;
  const auto robust = STASIS_TRY(kernel::get_robust_list(thread.tid()));
  record.robust_list = robust.head;
  record.robust_list_length = robust.length;
  record.clear_child_tid = *clear_child_tid_;
  const auto rseq = kernel::ptrace_get_rseq_configuration(thread.tid());
  if (rseq) record.rseq = {.pointer = rseq->pointer, .size = rseq->size, .signature = rseq->signature};
  record.altstack = {.pointer = reinterpret_cast<std::uint64_t>(altstack_->ss_sp),
                     .flags = static_cast<std::uint32_t>(altstack_->ss_flags),
                     .size = altstack_->ss_size};
  const auto pending = STASIS_TRY(kernel::ptrace_peek_siginfo(thread.tid(), kernel::SignalQueue::kThread));
  record.pending_signals = encode_pending(pending);
  record.attributes = STASIS_TRY(attributes_.take(batch, thread.tid()));
  record.credentials = STASIS_TRY(credentials_.take(batch, process.proc(), thread.tid(), credentials));
  return record;
}

}  // namespace stasis
