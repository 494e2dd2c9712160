// SPDX-License-Identifier: Apache-2.0
// ptrace(2), one thin function per request. What the requests are used for, and in which order, is src/tracee.
//
// Every function must be called by the thread that seized the task. Errors: ESRCH is Errc::kVanished, and means that
// the task is gone *or is not stopped* (a caller that knows it was stopped may take it for gone). A request unknown to
// this kernel is Errc::kKernelFeature. <sys/ptrace.h> and <linux/ptrace.h> exclude each other, so neither is included
// here; the numbers below are those of include/uapi/linux/ptrace.h.
#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

// PTRACE_O_*: options of ptrace_seize().
inline constexpr std::uint64_t kTraceSysGood = 1;
inline constexpr std::uint64_t kTraceFork = 1 << 1;
inline constexpr std::uint64_t kTraceVfork = 1 << 2;
inline constexpr std::uint64_t kTraceClone = 1 << 3;
inline constexpr std::uint64_t kTraceExec = 1 << 4;
inline constexpr std::uint64_t kTraceVforkDone = 1 << 5;
inline constexpr std::uint64_t kTraceExit = 1 << 6;
inline constexpr std::uint64_t kTraceSeccomp = 1 << 7;
inline constexpr std::uint64_t kExitKill = 1 << 20;
inline constexpr std::uint64_t kSuspendSeccomp = 1 << 21;

// PTRACE_EVENT_*: status >> 16 of a stop.
inline constexpr int kEventFork = 1;
inline constexpr int kEventVfork = 2;
inline constexpr int kEventClone = 3;
inline constexpr int kEventExec = 4;
inline constexpr int kEventVforkDone = 5;
inline constexpr int kEventExit = 6;
inline constexpr int kEventSeccomp = 7;
inline constexpr int kEventStop = 128;

// What became of a task, decoded from a wait status (man 2 ptrace).
struct WaitStatus {
  int raw = 0;

  bool stopped() const { return (raw & 0xff) == 0x7f; }
  bool exited() const { return (raw & 0x7f) == 0; }
  bool killed() const { return !stopped() && !exited(); }
  // REQUIRES: stopped(). The signal, 0x80 of a system-call stop included.
  int stop_signal() const { return (raw >> 8) & 0xff; }
  // PTRACE_EVENT_* of an event stop, else 0.
  int event() const { return stopped() ? (raw >> 16) & 0xff : 0; }
  bool syscall_stop() const { return stopped() && event() == 0 && stop_signal() == (SIGTRAP | 0x80); }
  // PTRACE_EVENT_STOP: interrupted, freshly attached, or group-stopped (then stop_signal() is the stopping signal).
  bool event_stop() const { return event() == kEventStop; }
  bool group_stop() const { return event_stop() && stop_signal() != SIGTRAP; }
  // REQUIRES: exited().
  int exit_code() const { return (raw >> 8) & 0xff; }
  // REQUIRES: killed().
  int term_signal() const { return raw & 0x7f; }
};

enum class WaitMode { kBlock, kPoll };

// waitpid(tid, __WALL). Nothing with kPoll when there is no news. A signal to the caller: Errc::kInterrupted (the
// caller decides whether to wait on); no such child or tracee: Errc::kVanished.
Result<std::optional<WaitStatus>> wait_task(HostPid tid, WaitMode mode);

// Attaches without stopping. EPERM is explained: already traced (kAlreadyTraced), another user's or privileged
// (kNotOwner), Yama (kNotPermitted with help), with kSuspendSeccomp always kSeccomp.
Result<void> ptrace_seize(HostPid tid, std::uint64_t options);
// Asks for a PTRACE_EVENT_STOP.
Result<void> ptrace_interrupt(HostPid tid);
Result<void> ptrace_set_options(HostPid tid, std::uint64_t options);

// Resume a stopped task, delivering `signal` (0: none) where the stop allows it.
Result<void> ptrace_cont(HostPid tid, int signal = 0);
Result<void> ptrace_syscall(HostPid tid, int signal = 0);
Result<void> ptrace_singlestep(HostPid tid, int signal = 0);
// Leaves a group-stopped task stopped, but lets it receive SIGCONT.
Result<void> ptrace_listen(HostPid tid);
Result<void> ptrace_detach(HostPid tid, int signal = 0);

// A register set (NT_PRSTATUS, NT_X86_XSTATE, ...) into `buffer`; the bytes the kernel filled.
Result<std::size_t> ptrace_get_regset(HostPid tid, unsigned type, std::span<std::byte> buffer);
Result<void> ptrace_set_regset(HostPid tid, unsigned type, std::span<const std::byte> bytes);

// The blocked-signals mask; bit (n-1) is signal n.
Result<std::uint64_t> ptrace_get_sigmask(HostPid tid);
Result<void> ptrace_set_sigmask(HostPid tid, std::uint64_t mask);

enum class SignalQueue { kThread, kProcess };
// Pending signals in queue order, without taking them.
Result<std::vector<siginfo_t>> ptrace_peek_siginfo(HostPid tid, SignalQueue queue);
// The signal of a signal-delivery stop. EINVAL (this is a group stop) is kInvalidArgument.
Result<siginfo_t> ptrace_get_siginfo(HostPid tid);
Result<void> ptrace_set_siginfo(HostPid tid, const siginfo_t& info);
Result<std::uint64_t> ptrace_get_event_message(HostPid tid);

// struct ptrace_rseq_configuration: address 0 when the thread has none registered. Linux 5.13.
struct RseqConfiguration {
  std::uint64_t pointer = 0;
  std::uint32_t size = 0;
  std::uint32_t signature = 0;
  std::uint32_t flags = 0;
  std::uint32_t padding = 0;
};
static_assert(sizeof(RseqConfiguration) == 24);
Result<RseqConfiguration> ptrace_get_rseq_configuration(HostPid tid);

// struct ptrace_sud_config (Documentation/admin-guide/syscall-user-dispatch.rst). mode 0 is off. Linux 6.4.
struct SyscallUserDispatch {
  std::uint64_t mode = 0;
  std::uint64_t selector = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};
static_assert(sizeof(SyscallUserDispatch) == 32);
Result<SyscallUserDispatch> ptrace_get_syscall_user_dispatch(HostPid tid);
Result<void> ptrace_set_syscall_user_dispatch(HostPid tid, const SyscallUserDispatch& config);

// The `index`-th seccomp filter, oldest first, as raw sock_filter instructions; empty when there is none of that index.
// Needs CAP_SYS_ADMIN in the first user namespace.
Result<std::vector<std::uint64_t>> ptrace_get_seccomp_filter(HostPid tid, std::uint64_t index);
// Its SECCOMP_FILTER_FLAG_* that can be told (LOG). Linux 4.16.
Result<std::uint64_t> ptrace_get_seccomp_flags(HostPid tid, std::uint64_t index);

}  // namespace stasis::kernel
