// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/thread_image.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>

#include "arch/x86_64/wait_note.h"
#include "arch/x86_64/xstate.h"
#include "kernel/clocks.h"
#include "kernel/page_size.h"
#include "kernel/pidfd.h"
#include "kernel/robust_list.h"
#include "resource/signal/signal_actions.h"
#include "resource/thread/interrupted_call.h"
#include "resource/thread/rseq.h"
#include "resource/thread/sleep_start.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

constexpr int kGetTidAddress = 40;  // PR_GET_TID_ADDRESS

std::uint64_t signal_set(std::span<const siginfo_t> pending) {
  std::uint64_t set = 0;
  for (const siginfo_t& info : pending) set |= std::uint64_t{1} << (info.si_signo - 1);
  return set;
}

// /proc/PID/task/TID/syscall: "running", or the call in which the thread waits and its arguments.
struct WaitingIn {
  long number = -1;
  unsigned long long first = 0;  // argument
};

WaitingIn waiting_in(const kernel::ProcDir& proc, HostPid tid) {
  const auto text = proc.read(fmt::format("task/{}/syscall", tid.value()));
  WaitingIn call;
  if (text && std::sscanf(text->c_str(), "%ld %llx", &call.number, &call.first) < 1) call.number = -1;
  return call;
}

// May the call have a time-out of its own?
bool may_time_out(const kernel::ProcDir& proc, const WaitingIn& call) {
  if (call.number == SYS_restart_syscall) return true;
  const CallTimeout* const row = call.number < 0 ? nullptr : find_call_timeout(call.number);
  if (!row || !row->of_socket()) return row != nullptr;
  const auto link = proc.fd_link(static_cast<int>(call.first));
  return link && link->starts_with("socket:");
}

// A thread that was interrupted before waits in restart_syscall(2), with the arguments of the call it once made: which
// one that was, the kernel function it sleeps in tells.
long call_by_wait_channel(const kernel::ProcDir& proc, HostPid tid, const WaitingIn& call) {
  const auto text = proc.read(fmt::format("task/{}/wchan", tid.value()));
  if (!text) return -1;
  if (text->find("poll") != std::string::npos) return SYS_poll;
  if (text->find("futex") != std::string::npos) return SYS_futex;
  // What remains are sleeps; their functions belong to the scheduler, so that the channel is the system call itself.
  if (text->find("nanosleep") == std::string::npos && text->find("syscall") == std::string::npos) return -1;
  // nanosleep(2) has a pointer where clock_nanosleep(2) has the number of a clock.
  return call.first < kernel::page_size() ? SYS_clock_nanosleep : SYS_nanosleep;
}

std::string schedstat_file(HostPid tid) { return fmt::format("task/{}/schedstat", tid.value()); }

// How often the thread got a CPU.
std::optional<unsigned long long> arrivals(const kernel::KeptFile& schedstat, const kernel::ProcDir& proc,
                                           HostPid tid) {
  const auto text = schedstat ? schedstat.read() : proc.read(schedstat_file(tid));
  unsigned long long count = 0;
  if (!text || std::sscanf(text->c_str(), "%*u %*u %llu", &count) != 1) return std::nullopt;
  return count;
}

// It is counted in ticks, cut off: not later than it was.
steady_clock::time_point start_of_thread(const kernel::ProcStat& stat) {
  const auto ticks_per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  const std::chrono::seconds whole(stat.starttime / ticks_per_second);
  const nanoseconds rest(stat.starttime % ticks_per_second * 1'000'000'000 / ticks_per_second);
  return steady_clock::now() - (nanoseconds(kernel::read_clocks().boottime_ns) - whole - rest);
}

// Leaves us on that CPU.
std::optional<RunQueueClocks::Origin> origin_of_clock(int cpu, const kernel::ProcDir& self) {
  cpu_set_t only;
  CPU_ZERO(&only);
  if (cpu < 0 || cpu >= CPU_SETSIZE) return std::nullopt;
  CPU_SET(static_cast<std::size_t>(cpu), &only);
  if (::sched_setaffinity(0, sizeof only, &only) != 0) return std::nullopt;
  // Brings our own account up to date (task_sched_runtime in kernel/sched/core.c) without giving up the CPU.
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  const auto own = self.thread_sched(HostPid(::gettid()));
  if (!own || !own->exec_start_ns) return std::nullopt;
  const auto now = steady_clock::now();
  return RunQueueClocks::Origin{.zero = now - nanoseconds(*own->exec_start_ns), .read = now};
}

// Sleeps that were given a place for it find the time that is left there, written at every interruption.
std::optional<nanoseconds> remainder_of_sleep(long number, const arch::Registers& registers, const ReadTimespec& read) {
  const auto args = arch::syscall_arguments(registers);
  const std::uint64_t place = number == SYS_nanosleep ? args[1] : number == SYS_clock_nanosleep ? args[3] : 0;
  return place ? read(place) : std::nullopt;
}

template <class Time>
ReadTimespec reader_of(const kernel::ProcessMemory& memory) {
  return [&memory](std::uint64_t address) -> std::optional<nanoseconds> {
    const Result<Time> value = memory.load(RemotePtr<Time>(address));
    if (!value) return std::nullopt;
    const std::chrono::seconds seconds((*value).tv_sec);
    if (seconds.count() < 0 || seconds.count() > INT32_MAX) return std::nullopt;
    if constexpr (std::is_same_v<Time, ::timeval>) {
      return seconds + std::chrono::microseconds((*value).tv_usec);
    } else {
      return seconds + nanoseconds((*value).tv_nsec);
    }
  };
}

// SO_RCVTIMEO or SO_SNDTIMEO of a descriptor of the process; zero means for ever.
std::optional<nanoseconds> socket_timeout(const TracedProcess& process, int fd, int option) {
  const auto socket = kernel::pidfd_getfd(process.pidfd().get(), fd);
  ::timeval value{};
  socklen_t size = sizeof value;
  if (!socket || ::getsockopt(socket->get(), SOL_SOCKET, option, &value, &size) != 0) return std::nullopt;
  const nanoseconds timeout = std::chrono::seconds(value.tv_sec) + std::chrono::microseconds(value.tv_usec);
  if (timeout <= nanoseconds(0)) return std::nullopt;
  return timeout;
}

TimeoutSources timeout_sources(const TracedProcess& process) {
  return {.timespec = reader_of<timespec>(process.memory()),
          .timeval = reader_of<::timeval>(process.memory()),
          .socket = [&process](int fd, int option) { return socket_timeout(process, fd, option); }};
}

ReadCode reader_of_code(const kernel::ProcessMemory& memory) {
  return [&memory](std::uint64_t end) -> std::optional<std::array<std::uint8_t, 32>> {
    const auto code = memory.load(RemotePtr<std::array<std::uint8_t, 32>>(end - 32));
    if (!code) return std::nullopt;
    return *code;
  };
}

}  // namespace

// The clock is the run queue's: it compares only with our own on the same CPU.
std::optional<RunQueueClocks::Origin> RunQueueClocks::origin(int cpu) {
  const std::lock_guard lock(mutex_);
  const auto [origin, first] = origins_.try_emplace(cpu);
  if (!first) return origin->second;
  cpu_set_t previous;
  const auto self = kernel::ProcDir::open(HostPid(::getpid()));
  if (!self || ::sched_getaffinity(0, sizeof previous, &previous) != 0) return std::nullopt;
  origin->second = origin_of_clock(cpu, *self);
  ::sched_setaffinity(0, sizeof previous, &previous);
  return origin->second;
}

// What is read of a thread must all be of one sleep: it has not run meanwhile. The CPU comes first, for a thread that
// is moved later loses its exec_start.
std::optional<WaitTimes::Sleep> WaitTimes::look_at(const kernel::ProcDir& proc, HostPid tid, RunQueueClocks& clocks) {
  auto schedstat = kernel::KeptFile::open(proc, schedstat_file(tid));
  const auto before = arrivals(schedstat, proc, tid);
  const auto stat = proc.thread_stat(tid);
  const auto sched = proc.thread_sched(tid);
  if (!stat || !sched || !sched->exec_start_ns || !sched->voluntary_switches) return std::nullopt;
  if (stat->state == 'R' || arrivals(schedstat, proc, tid) != before) return std::nullopt;
  const auto clock = clocks.origin(stat->processor);
  if (!clock) return std::nullopt;
  const auto now = steady_clock::now();
  const auto since = start_of_sleep({.exec_start_ns = *sched->exec_start_ns,
                                     .clock_zero = clock->zero,
                                     .clock_read = clock->read,
                                     .thread_start = start_of_thread(*stat),
                                     .now = now});
  if (!since) return std::nullopt;
  return Sleep{.since = *since,
               .looked = now,
               .count = *sched->voluntary_switches,
               .all = sched->switches,
               .schedstat = std::move(schedstat)};
}

WaitTimes WaitTimes::look(const kernel::ProcDir& proc, RunQueueClocks& clocks) {
  struct Seen {
    std::optional<long> restarted;
    std::optional<Sleep> sleep;
  };
  WaitTimes waits;
  const auto threads = proc.threads();
  if (!threads) return waits;
  std::vector<Seen> seen(threads->size());
  const auto look_at_one = [&](std::size_t i, std::size_t) -> Result<void> {
    const HostPid tid = (*threads)[i];
    const WaitingIn call = waiting_in(proc, tid);
    if (!may_time_out(proc, call)) return {};
    if (call.number == SYS_restart_syscall) seen[i].restarted = call_by_wait_channel(proc, tid, call);
    seen[i].sleep = look_at(proc, tid, clocks);
    return {};
  };
  static_cast<void>(side_by_side({.count = seen.size(), .worth_a_thread = 16}, look_at_one));
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (seen[i].restarted) waits.restarted_[(*threads)[i]] = *seen[i].restarted;
    if (seen[i].sleep) waits.sleeps_[(*threads)[i]] = *std::move(seen[i].sleep);
  }
  return waits;
}

long WaitTimes::restarted_call(HostPid tid) const {
  const auto found = restarted_.find(tid);
  return found == restarted_.end() ? -1 : found->second;
}

// It was woken once, by us, and stopped. How often a thread got a CPU is cheap to read, and mostly says all.
bool WaitTimes::slept_on(const Sleep& sleep, const kernel::ProcDir& proc, HostPid tid) {
  if (sleep.all && arrivals(sleep.schedstat, proc, tid) == *sleep.all + 1) return true;
  const auto sched = proc.thread_sched(tid);
  return sched && sched->voluntary_switches == sleep.count + 1;
}

nanoseconds WaitTimes::waited(const kernel::ProcDir& proc, HostPid tid, nanoseconds timeout) const {
  const auto found = sleeps_.find(tid);
  if (found == sleeps_.end()) return nanoseconds(0);
  const Sleep& sleep = found->second;
  const auto now = steady_clock::now();
  if (!plausible(sleep.since, sleep.looked, timeout) || !slept_on(sleep, proc, tid)) return nanoseconds(0);
  return std::max(nanoseconds(0), nanoseconds(now - sleep.since));
}

namespace {

// The call as the program made it.
long number_of_call(const TracedProcess& process, const TracedThread& thread, const WaitTimes& waits) {
  const auto number = static_cast<long>(arch::interrupted_syscall(thread.registers));
  if (number != SYS_restart_syscall) return number;
  if (const auto note = arch::wait_note(thread.registers)) return restart_block_call(note->call);
  const long seen = waits.restarted_call(thread.tid());
  return seen >= 0 ? seen : waiting_call(thread.registers, reader_of_code(process.memory()));
}

// A call that started over, or will in a new task: how much of its time-out is used up. Nothing if it has none.
struct UsedTime {
  nanoseconds elapsed;
  bool over;
};
std::optional<UsedTime> used_time(const TracedProcess& process, const TracedThread& thread, long number,
                                  const WaitTimes& waits) {
  const TimeoutSources sources = timeout_sources(process);
  const auto timeout = relative_timeout(number, thread.registers, sources);
  if (!timeout) return std::nullopt;
  nanoseconds elapsed(0);
  const auto left = remainder_of_sleep(number, thread.registers, sources.timespec);
  if (left && *left <= *timeout) {
    elapsed = *timeout - *left;
  } else {
    elapsed = waits.waited(process.proc(), thread.tid(), *timeout);
    if (const auto note = arch::wait_note(thread.registers)) elapsed += note->waited;
  }
  return UsedTime{.elapsed = std::min(elapsed, *timeout), .over = elapsed >= *timeout};
}

}  // namespace

Result<SettledThread> settle_thread(TracedProcess& process, TracedThread& thread, const WaitTimes& waits,
                                    std::uint64_t process_pending) {
  SettledThread settled;
  InterruptedCallRecord& call = settled.call;
  const arch::Registers before = thread.registers;
  arch::undo_restart_with_note(thread.registers);
  const kernel::RseqConfiguration rseq = STASIS_TRY(settle_rseq(process.memory(), thread));
  settled.rseq = {.pointer = rseq.pointer, .size = rseq.size, .signature = rseq.signature};
  const auto pending = STASIS_TRY(kernel::ptrace_peek_siginfo(thread.tid(), kernel::SignalQueue::kThread));
  settled.pending_signals = encode_pending(pending);
  const std::uint64_t deliverable = (signal_set(pending) | process_pending) & ~thread.signal_mask;
  const bool rewind = must_rewind(thread.registers, deliverable ? Deliverable::kSome : Deliverable::kNone);
  if (rewind || arch::awaits_restart(thread.registers)) call.number = number_of_call(process, thread, waits);
  std::optional<UsedTime> used;
  if (rewind || arch::syscall_result(thread.registers) == arch::kErestartBlock) {
    used = used_time(process, thread, call.number, waits);
  }
  if (used) call.elapsed_ns = static_cast<std::uint64_t>(used->elapsed.count());
  if (call.number >= 0 && !rewind) arch::set_interrupted_syscall(thread.registers, call.number);
  if (rewind && used && used->over) {
    arch::set_syscall_result(thread.registers, find_call_timeout(call.number)->when_over);
    arch::forget_syscall(thread.registers);
  } else if (rewind) {
    arch::rewind_syscall(thread.registers);
    call.rewound = true;
    if (used && arch::wait_notes_work()) arch::leave_wait_note(thread.registers, used->elapsed);
  }
  // From here on a kill -9 of ours leaves the thread with what it would have seen without us.
  if (std::memcmp(&before, &thread.registers, sizeof before) != 0) STASIS_TRY(thread.put_back());
  return settled;
}

void note_wait(TracedThread& thread, const InterruptedCallRecord& call, nanoseconds frozen) {
  const nanoseconds waited = nanoseconds(call.elapsed_ns) + frozen;
  if (call.rewound) {
    arch::renew_wait_note(thread.registers, waited);
  } else {
    restart_with_note(thread.registers, static_cast<long>(call.number), waited);
  }
}

ThreadQuery::ThreadQuery(Batch& batch)
    : first_(batch.size()),
      clear_child_tid_(batch.array<std::uint64_t>(1)),
      altstack_(batch.array<stack_t>(1)),
      attributes_(
          (batch.call(SYS_prctl, kGetTidAddress, clear_child_tid_), batch.call(SYS_sigaltstack, 0, altstack_), batch)),
      credentials_(batch) {}

Result<ThreadRecord> ThreadQuery::take(const Batch& batch, const TracedProcess& process, const TracedThread& thread,
                                       const SettledThread& settled, CredentialsCache& credentials,
                                       const kernel::ProcStatus* known) const {
  ThreadRecord record{.call = settled.call, .pending_signals = settled.pending_signals};
  STASIS_TRY(batch.check(first_, "PR_GET_TID_ADDRESS"));
  STASIS_TRY(batch.check(first_ + 1, "sigaltstack"));
  record.tid = ImagePid(STASIS_TRY(process.inner_tid(thread.tid())));
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
  record.rseq = settled.rseq;
  record.altstack = {.pointer = reinterpret_cast<std::uint64_t>(altstack_->ss_sp),
                     .flags = static_cast<std::uint32_t>(altstack_->ss_flags),
                     .size = altstack_->ss_size};
  record.attributes = STASIS_TRY(attributes_.take(batch, thread.tid()));
  record.credentials = STASIS_TRY(credentials_.take(batch, process.proc(), thread.tid(), credentials, known));
  return record;
}

}  // namespace stasis
