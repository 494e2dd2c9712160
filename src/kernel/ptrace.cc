// SPDX-License-Identifier: Apache-2.0
#include "kernel/ptrace.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "base/file.h"
#include "kernel/proc_status.h"
#include "kernel/raw.h"

namespace stasis::kernel {
namespace {

// include/uapi/linux/ptrace.h
constexpr long kCont = 7;
constexpr long kSinglestep = 9;
constexpr long kDetach = 17;
constexpr long kSyscall = 24;
constexpr long kSetOptions = 0x4200;
constexpr long kGetEventMsg = 0x4201;
constexpr long kGetSiginfo = 0x4202;
constexpr long kSetSiginfo = 0x4203;
constexpr long kGetRegset = 0x4204;
constexpr long kSetRegset = 0x4205;
constexpr long kSeize = 0x4206;
constexpr long kInterrupt = 0x4207;
constexpr long kListen = 0x4208;
constexpr long kPeekSiginfo = 0x4209;
constexpr long kGetSigmask = 0x420a;
constexpr long kSetSigmask = 0x420b;
constexpr long kSeccompGetFilter = 0x420c;
constexpr long kSeccompGetMetadata = 0x420d;
constexpr long kGetRseqConfiguration = 0x420f;
constexpr long kSetSyscallUserDispatch = 0x4210;
constexpr long kGetSyscallUserDispatch = 0x4211;

Error failed(std::string_view request, HostPid tid, std::source_location where = std::source_location::current()) {
  const int error = errno;
  return Error::from_errno(error, fmt::format("ptrace {} of thread {}", request, tid.value()), where);
}

// A kernel that does not know the request answers EIO (older ones) or EINVAL.
Error failed_or_unknown(std::string_view request, HostPid tid) {
  const bool unknown = errno == EIO || errno == EINVAL;
  Error error = failed(request, tid);
  if (!unknown) return error;
  return std::move(error).with_code(Errc::kKernelFeature).with_help("a newer kernel has this request");
}

// Why the kernel answered EPERM (man 2 ptrace, "Ptrace access mode checking").
Error explain_refusal(HostPid tid, std::uint64_t options) {
  Error error = Error::from_errno(EPERM, fmt::format("attach to thread {}", tid.value()));
  if (options & kSuspendSeccomp) {  // the one option that is refused by itself
    return std::move(error).with_code(Errc::kSeccomp).with_help("suspending seccomp filters needs CAP_SYS_ADMIN");
  }
  const auto text = read_file(AT_FDCWD, fmt::format("/proc/{}/status", tid.value()));
  const auto status = text ? parse_status(*text) : Result<ProcStatus>(Error(text.error()));
  if (!status) return error;
  if (status->tracer_pid != 0) {
    return Error(Errc::kAlreadyTraced,
                 fmt::format("thread {} is already traced by process {}", tid.value(), status->tracer_pid))
        .with_help("end the debugger or tracer first");
  }
  const ProcStatus::Ids uid = status->uid;
  if (uid.real != ::geteuid() || uid.effective != ::geteuid() || uid.saved != ::geteuid()) {
    return std::move(error)
        .with_code(Errc::kNotOwner)
        .with_help(fmt::format("it runs as user {}; become that user, or root", uid.effective));
  }
  const auto yama = read_file(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", 16);
  if (yama && !yama->starts_with('0')) {
    return std::move(error).with_help(
        "sysctl kernel.yama.ptrace_scope allows only a process's ancestors; set it to 0, start the program by "
        "`stasis run`, or be root");
  }
  return std::move(error)
      .with_code(Errc::kNotOwner)
      .with_help(
          "it runs with more privileges, in another user namespace, or has made itself undumpable; root can do it");
}

template <class Address, class Data>
long call(std::string_view name, long request, HostPid tid, Address address, Data data) {
  return raw(name, SYS_ptrace, request, static_cast<long>(tid.value()), address, data);
}

// Lets the task run: no forced faults here, see raw.h.
Result<void> resume(std::string_view name, long request, HostPid tid, int signal) {
  if (raw_no_fault(SYS_ptrace, request, static_cast<long>(tid.value()), 0L, static_cast<long>(signal)) != 0) {
    return failed(name, tid);
  }
  return {};
}

}  // namespace

Result<std::optional<WaitStatus>> wait_task(HostPid tid, WaitMode mode) {
  int status = 0;
  const pid_t got = ::waitpid(tid.value(), &status, __WALL | (mode == WaitMode::kPoll ? WNOHANG : 0));
  if (got == tid.value()) return std::optional(WaitStatus{status});
  if (got == 0) return std::optional<WaitStatus>();
  const int error = errno;
  Error result = Error::from_errno(error, fmt::format("wait for task {}", tid.value()));
  if (error == EINTR) return std::move(result).with_code(Errc::kInterrupted);
  if (error == ECHILD) return std::move(result).with_code(Errc::kVanished);
  return result;
}

Result<void> ptrace_seize(HostPid tid, std::uint64_t options) {
  if (call("ptrace_seize", kSeize, tid, 0L, options) == 0) return {};
  return errno == EPERM ? explain_refusal(tid, options) : failed("seize", tid);
}

Result<void> ptrace_interrupt(HostPid tid) {
  if (call("ptrace_interrupt", kInterrupt, tid, 0L, 0L) != 0) return failed("interrupt", tid);
  return {};
}

Result<void> ptrace_set_options(HostPid tid, std::uint64_t options) {
  if (call("ptrace_set_options", kSetOptions, tid, 0L, options) != 0) return failed("set options", tid);
  return {};
}

Result<void> ptrace_cont(HostPid tid, int signal) { return resume("cont", kCont, tid, signal); }
Result<void> ptrace_syscall(HostPid tid, int signal) { return resume("syscall", kSyscall, tid, signal); }
Result<void> ptrace_singlestep(HostPid tid, int signal) { return resume("singlestep", kSinglestep, tid, signal); }
Result<void> ptrace_listen(HostPid tid) { return resume("listen", kListen, tid, 0); }
Result<void> ptrace_detach(HostPid tid, int signal) { return resume("detach", kDetach, tid, signal); }

Result<std::size_t> ptrace_get_regset(HostPid tid, unsigned type, std::span<std::byte> buffer) {
  iovec vec{buffer.data(), buffer.size()};
  if (call("ptrace_get_regset", kGetRegset, tid, static_cast<unsigned long>(type), &vec) != 0) {
    return failed(fmt::format("get register set {:#x}", type), tid);
  }
  return vec.iov_len;
}

Result<void> ptrace_set_regset(HostPid tid, unsigned type, std::span<const std::byte> bytes) {
  iovec vec{const_cast<std::byte*>(bytes.data()), bytes.size()};
  if (call("ptrace_set_regset", kSetRegset, tid, static_cast<unsigned long>(type), &vec) != 0) {
    return failed(fmt::format("set register set {:#x}", type), tid);
  }
  return {};
}

Result<std::uint64_t> ptrace_get_sigmask(HostPid tid) {
  std::uint64_t mask = 0;
  if (call("ptrace_get_sigmask", kGetSigmask, tid, sizeof mask, &mask) != 0) return failed("get signal mask", tid);
  return mask;
}

Result<void> ptrace_set_sigmask(HostPid tid, std::uint64_t mask) {
  if (call("ptrace_set_sigmask", kSetSigmask, tid, sizeof mask, &mask) != 0) return failed("set signal mask", tid);
  return {};
}

Result<std::vector<siginfo_t>> ptrace_peek_siginfo(HostPid tid, SignalQueue queue) {
  struct {
    std::uint64_t offset = 0;
    std::uint32_t flags = 0;
    std::int32_t count = 32;
  } args;
  args.flags = queue == SignalQueue::kProcess ? 1 : 0;  // PTRACE_PEEKSIGINFO_SHARED
  std::vector<siginfo_t> pending;
  for (;;) {
    pending.resize(args.offset + static_cast<std::size_t>(args.count));
    const long got = call("ptrace_peek_siginfo", kPeekSiginfo, tid, &args, pending.data() + args.offset);
    if (got < 0) return failed("peek pending signals", tid);
    args.offset += static_cast<std::uint64_t>(got);
    pending.resize(args.offset);
    if (got == 0) return pending;
  }
}

Result<siginfo_t> ptrace_get_siginfo(HostPid tid) {
  siginfo_t info{};
  if (call("ptrace_get_siginfo", kGetSiginfo, tid, 0L, &info) != 0) {
    const bool group_stop = errno == EINVAL;
    Error error = failed("get signal", tid);
    if (group_stop) return std::move(error).with_code(Errc::kInvalidArgument);
    return error;
  }
  return info;
}

Result<void> ptrace_set_siginfo(HostPid tid, const siginfo_t& info) {
  if (call("ptrace_set_siginfo", kSetSiginfo, tid, 0L, &info) != 0) return failed("set signal", tid);
  return {};
}

Result<std::uint64_t> ptrace_get_event_message(HostPid tid) {
  unsigned long message = 0;
  if (call("ptrace_get_event_message", kGetEventMsg, tid, 0L, &message) != 0) return failed("get event message", tid);
  return message;
}

Result<RseqConfiguration> ptrace_get_rseq_configuration(HostPid tid) {
  RseqConfiguration config;
  if (call("ptrace_get_rseq_configuration", kGetRseqConfiguration, tid, sizeof config, &config) < 0) {
    return failed_or_unknown("get rseq configuration", tid);
  }
  return config;
}

Result<SyscallUserDispatch> ptrace_get_syscall_user_dispatch(HostPid tid) {
  SyscallUserDispatch config;
  if (call("ptrace_get_syscall_user_dispatch", kGetSyscallUserDispatch, tid, sizeof config, &config) != 0) {
    return failed_or_unknown("get syscall user dispatch", tid);
  }
  return config;
}

Result<void> ptrace_set_syscall_user_dispatch(HostPid tid, const SyscallUserDispatch& config) {
  if (call("ptrace_set_syscall_user_dispatch", kSetSyscallUserDispatch, tid, sizeof config, &config) != 0) {
    return failed_or_unknown("set syscall user dispatch", tid);
  }
  return {};
}

Result<std::vector<std::uint64_t>> ptrace_get_seccomp_filter(HostPid tid, std::uint64_t index) {
  const long length = call("ptrace_get_seccomp_filter", kSeccompGetFilter, tid, index, nullptr);
  if (length < 0) {
    if (errno == ENOENT || errno == EINVAL) return std::vector<std::uint64_t>();
    return failed("get seccomp filter", tid);
  }
  std::vector<std::uint64_t> program(static_cast<std::size_t>(length));
  if (call("ptrace_get_seccomp_filter", kSeccompGetFilter, tid, index, program.data()) < 0) {
    return failed("get seccomp filter", tid);
  }
  return program;
}

Result<std::uint64_t> ptrace_get_seccomp_flags(HostPid tid, std::uint64_t index) {
  std::array<std::uint64_t, 2> metadata{index, 0};  // struct seccomp_metadata
  if (call("ptrace_get_seccomp_metadata", kSeccompGetMetadata, tid, sizeof metadata, metadata.data()) < 0) {
    return failed_or_unknown("get seccomp metadata", tid);
  }
  return metadata[1];
}

}  // namespace stasis::kernel
