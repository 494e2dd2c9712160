// SPDX-License-Identifier: Apache-2.0
#include "kernel/probe.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/file.h"
#include "kernel/clone3.h"
#include "kernel/kcmp.h"
#include "kernel/namespaces.h"
#include "kernel/page_scan.h"
#include "kernel/page_size.h"
#include "kernel/pidfd.h"
#include "kernel/proc_dir.h"
#include "kernel/ptrace.h"
#include "kernel/raw.h"
#include "kernel/trial.h"
#include "kernel/without.h"

namespace stasis::kernel {
namespace {

Error missing(std::string_view why) { return Error(Errc::kKernelFeature, std::string(why)); }
Error missing_errno(std::string_view operation) { return Error::from_errno(errno, operation); }

HostPid self() { return HostPid(::getpid()); }

// A child that sleeps; killed and reaped with this object.
class Sleeper {
 public:
  static Result<Sleeper> create() {
    const HostPid pid = STASIS_TRY(clone3_process(
        0, SIGCHLD, {},
        [](void*) noexcept {
          for (;;) raw_no_fault(SYS_pause);
        },
        nullptr));
    return Sleeper(pid);
  }
  Sleeper(Sleeper&& other) noexcept : pid_(std::exchange(other.pid_, HostPid())) {}
  Sleeper& operator=(Sleeper&&) = delete;
  ~Sleeper() {
    if (!pid_) return;
    ::kill(pid_.value(), SIGKILL);
    while (::waitpid(pid_.value(), nullptr, __WALL) < 0 && errno == EINTR) {
    }
  }

  HostPid pid() const { return pid_; }
  // Seized and stopped.
  Result<void> stop(std::uint64_t options) const {
    STASIS_TRY(ptrace_seize(pid_, options));
    STASIS_TRY(ptrace_interrupt(pid_));
    STASIS_TRY(wait_task(pid_, WaitMode::kBlock));
    return {};
  }

 private:
  explicit Sleeper(HostPid pid) : pid_(pid) {}
  HostPid pid_;
};

Result<void> probe_ptrace_others() {
  const auto scope = read_file(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", 16);
  if (!scope || scope->starts_with('0')) return {};
  if (scope->starts_with('3'))
    return missing("sysctl kernel.yama.ptrace_scope is 3: nobody may trace, until the next boot");
  if (STASIS_TRY(has_capability(CAP_SYS_PTRACE))) return {};
  return missing("sysctl kernel.yama.ptrace_scope is " + scope->substr(0, 1) + "; 0 allows it");
}

Result<void> probe_ptrace() {
  const Sleeper child = STASIS_TRY(Sleeper::create());
  STASIS_TRY(child.stop(kTraceSysGood | kExitKill));
  STASIS_TRY(ptrace_get_sigmask(child.pid()));
  return {};
}

Result<void> probe_proc_timers() {
  const ProcDir proc = STASIS_TRY(ProcDir::open(self()));
  STASIS_TRY(proc.timers());
  return {};
}

Result<void> probe_proc_children() {
  const ProcDir proc = STASIS_TRY(ProcDir::open(self()));
  STASIS_TRY(proc.read(fmt::format("task/{}/children", ::getpid())));
  return {};
}

// Does the kernel look at the lower half of a call's number alone? (arch/x86_64/wait_note.h)
Result<void> probe_wait_notes() {
  constexpr std::uint64_t kUpperHalf = std::uint64_t{0x5a} << 56;
  if (::syscall(static_cast<long>(kUpperHalf | SYS_getpid)) == ::getpid()) return {};
  return missing("the upper half of a system call's number is not ignored");
}

Result<void> probe_exec_start() {
  const ProcDir proc = STASIS_TRY(ProcDir::open(self()));
  const SchedInfo info = STASIS_TRY(proc.thread_sched(self()));
  return info.exec_start_ns ? Result<void>() : missing("/proc/PID/sched has no se.exec_start");
}

Result<void> probe_pidfd_getfd() {
  const Sleeper child = STASIS_TRY(Sleeper::create());
  const UniqueFd null = STASIS_TRY(open_at(AT_FDCWD, "/dev/null", O_RDONLY));
  const UniqueFd pidfd = STASIS_TRY(pidfd_open(self()));
  STASIS_TRY(pidfd_getfd(pidfd.get(), null.get()));
  STASIS_TRY(pidfd_open(child.pid()));
  return {};
}

Result<void> probe_process_vm() {
  char from = 1, to = 0;
  const iovec local{&to, 1}, remote{&from, 1};
  if (raw_no_fault(SYS_process_vm_readv, ::getpid(), &local, 1ul, &remote, 1ul, 0ul) == 1) return {};
  return missing_errno("process_vm_readv");
}

Result<void> probe_kcmp() {
  STASIS_TRY(kcmp(KcmpType::kVm, self(), self()));
  return {};
}

Result<void> probe_pagemap_scan() {
  const ProcDir proc = STASIS_TRY(ProcDir::open(self()));
  const PageScanner scanner = STASIS_TRY(PageScanner::open(proc));
  return scanner.uses_ioctl() ? Result<void>() : missing("the PAGEMAP_SCAN ioctl came with Linux 6.7");
}

Result<void> probe_guard_pages() {
  const ProcDir proc = STASIS_TRY(ProcDir::open(self()));
  const PageScanner scanner = STASIS_TRY(PageScanner::open(proc));
  return scanner.sees_guard() ? Result<void>() : missing("guard regions are reported since Linux 6.15");
}

constexpr int kUserModeOnly = 1;                          // UFFD_USER_MODE_ONLY
constexpr std::uint64_t kFeatureWpUnpopulated = 1 << 13;  // UFFD_FEATURE_WP_UNPOPULATED
constexpr std::uint64_t kFeatureWpAsync = 1 << 15;        // UFFD_FEATURE_WP_ASYNC

Result<void> open_userfaultfd(int flags, std::uint64_t features) {
  const UniqueFd fd(static_cast<int>(raw_no_fault(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags)));
  if (!fd) return missing_errno("userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return missing_errno("userfaultfd features");
  return {};
}

Result<void> probe_userfaultfd_kernel() { return open_userfaultfd(0, 0); }
Result<void> probe_userfaultfd_user() { return open_userfaultfd(kUserModeOnly, 0); }
Result<void> probe_wp_async() { return open_userfaultfd(kUserModeOnly, kFeatureWpUnpopulated | kFeatureWpAsync); }

// A pid that was just in use and is free again is asked for anew.
Result<void> probe_set_tid() {
  std::int32_t pid = 0;
  {
    const Sleeper child = STASIS_TRY(Sleeper::create());
    pid = child.pid().value();
  }
  const auto again = clone3_process(0, SIGCHLD, std::span(&pid, 1), [](void*) noexcept {}, nullptr);
  if (again) {
    while (::waitpid(again->value(), nullptr, 0) < 0 && errno == EINTR) {
    }
    return {};
  }
  if (again.error().code() == Errc::kPidTaken) return {};  // somebody was faster: asking is permitted
  return Error(again.error());
}

Result<void> probe_user_namespace() {
  STASIS_TRY(enter_namespaces({.user = UserNamespace::kNew}));
  return try_in_child(settle_in_namespaces);
}

Result<void> probe_privileged_namespaces() {
  STASIS_TRY(enter_namespaces({.user = UserNamespace::kKeep}));
  return try_in_child(settle_in_namespaces);
}

Result<void> probe_time_namespace() {
  const UserNamespace user = STASIS_TRY(user_namespace_needed());
  STASIS_TRY(enter_namespaces({.user = user, .time = TimeShift{1'000'000'000, 1'000'000'000}}));
  return try_in_child([] { return Result<void>(); });
}

Result<void> probe_set_mm_map() {
  unsigned size = 0;
  if (::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) != 0) return missing_errno("prctl(PR_SET_MM_MAP_SIZE)");
  constexpr unsigned kExpected = 104;  // struct prctl_mm_map
  return size == kExpected ? Result<void>() : missing(fmt::format("struct prctl_mm_map has {} bytes", size));
}

#if defined(__x86_64__)
// Runs in a child without a vdso afterwards: nothing but system calls from the unmapping on.
Result<void> probe_map_vdso() {
  constexpr int kArchMapVdso64 = 0x2003;
  const ProcDir proc = STASIS_TRY(ProcDir::open(self()));
  const std::vector<Vma> vmas = STASIS_TRY(proc.maps());
  std::uint64_t lowest = 0;
  for (const Vma& vma : vmas) {
    if (!vma.kernel_special() || vma.path == "[vsyscall]") continue;
    if (lowest == 0) lowest = vma.start;
    raw_no_fault(SYS_munmap, vma.start, vma.size());
  }
  if (lowest == 0) return missing("this process has no vdso");
  if (raw_no_fault(SYS_arch_prctl, kArchMapVdso64, lowest) < 0) return missing_errno("arch_prctl(ARCH_MAP_VDSO_64)");
  return {};
}
#else
Result<void> probe_map_vdso() { return missing("only on x86-64"); }
#endif

Result<void> probe_timer_restore_ids() {
  constexpr int kTimerCreateRestoreIds = 77;  // PR_TIMER_CREATE_RESTORE_IDS, Linux 6.16
  if (::prctl(kTimerCreateRestoreIds, 1, 0, 0, 0) != 0) return missing_errno("prctl(PR_TIMER_CREATE_RESTORE_IDS)");
  return {};
}

Result<void> probe_rseq_configuration() {
  const Sleeper child = STASIS_TRY(Sleeper::create());
  STASIS_TRY(child.stop(kExitKill));
  STASIS_TRY(ptrace_get_rseq_configuration(child.pid()));
  return {};
}

Result<void> probe_syscall_user_dispatch() {
  const Sleeper child = STASIS_TRY(Sleeper::create());
  STASIS_TRY(child.stop(kExitKill));
  STASIS_TRY(ptrace_get_syscall_user_dispatch(child.pid()));
  return {};
}

Result<void> probe_suspend_seccomp() {
  const Sleeper child = STASIS_TRY(Sleeper::create());
  return child.stop(kExitKill | kSuspendSeccomp);
}

Result<void> probe_map_files() {
  void* const page = ::mmap(nullptr, page_size(), PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return missing_errno("mmap");
  const auto start = reinterpret_cast<std::uint64_t>(page);
  STASIS_TRY(open_at(AT_FDCWD, fmt::format("/proc/self/map_files/{:x}-{:x}", start, start + page_size()), O_RDWR));
  return {};
}

// clang-format off
constexpr Feature kFeatures[] = {
    {"ptrace", "holding a process while it is saved", Need::kCheckpoint,
     "nothing can be saved", probe_ptrace},
    {"ptrace_others", "saving programs that Stasis has not started", Need::kSome,
     "only programs started by `stasis run` can be saved", probe_ptrace_others},
    {"pidfd_getfd", "copies of a program's open files", Need::kCheckpoint,
     "nothing can be saved", probe_pidfd_getfd},
    {"proc_timers", "saving POSIX timers (CONFIG_CHECKPOINT_RESTORE)", Need::kCheckpoint,
     "nothing can be saved, as timers would be lost unseen", probe_proc_timers},
    {"proc_children", "finding a program's children", Need::kCheckpoint,
     "nothing can be saved, as children would be lost unseen", probe_proc_children},
    {"kcmp", "telling which descriptors share an open file", Need::kSome,
     "programs that may share open files are refused", probe_kcmp},
    {"process_vm_readv", "reading memory", Need::kFaster,
     "/proc/PID/mem is read", probe_process_vm},
    {"pagemap_scan", "finding the pages in use", Need::kFaster,
     "/proc/PID/pagemap is read, and zero pages are saved too", probe_pagemap_scan},
    {"guard_pages", "saving guard regions (MADV_GUARD_INSTALL)", Need::kSome,
     "programs with guard regions are refused", probe_guard_pages},
    {"exec_start", "how long a thread has slept in a call with a time-out", Need::kSome,
     "such a call starts over with its whole time-out", probe_exec_start},
    {"wait_notes", "time-outs that are used up over many checkpoints", Need::kSome,
     "a call counts its time-out from the last checkpoint on", probe_wait_notes},
    {"rseq_configuration", "saving restartable sequences", Need::kSome,
     "programs that use them are refused", probe_rseq_configuration},
    {"syscall_user_dispatch", "saving programs that dispatch their own system calls", Need::kSome,
     "such programs are refused", probe_syscall_user_dispatch},
    {"suspend_seccomp", "saving programs under seccomp", Need::kSome,
     "programs under seccomp are refused", probe_suspend_seccomp},
    {"map_files", "a gate without a descriptor in the program", Need::kFaster,
     "a memfd is used, which takes a free descriptor for a moment", probe_map_files},
    {"wp_async", "short freezes of large programs (--snapshot precopy)", Need::kFaster,
     "a fork makes them short, or the program waits until its pages are written", probe_wp_async},
    {"userfaultfd_user", "the same without privileges", Need::kFaster,
     "as root only", probe_userfaultfd_user},
    {"userfaultfd_kernel", "restart --lazy: filling memory when it is touched", Need::kSome,
     "all memory is read before the program runs", probe_userfaultfd_kernel},
    {"clone3_set_tid", "giving processes their old pids in this pid namespace", Need::kSome,
     "programs are restarted in namespaces of their own", probe_set_tid},
    {"privileged_namespaces", "restarting in namespaces as root", Need::kSome,
     "a user namespace is made first", probe_privileged_namespaces},
    {"user_namespace", "restarting without root", Need::kSome,
     "only root can restart programs, or their old pids must be permitted and free", probe_user_namespace},
    {"time_namespace", "restarting after a reboot with clocks that go on", Need::kSome,
     "an image of another boot is refused", probe_time_namespace},
    {"set_mm_map", "restoring heap, stack and argument addresses (CONFIG_CHECKPOINT_RESTORE)", Need::kRestart,
     "nothing can be restarted", probe_set_mm_map},
    {"map_vdso", "restoring the vdso at its old address (CONFIG_CHECKPOINT_RESTORE)", Need::kRestart,
     "nothing can be restarted", probe_map_vdso},
    {"timer_restore_ids", "restoring POSIX timers under their ids", Need::kFaster,
     "timers are made and deleted until the id comes", probe_timer_restore_ids},
};
// clang-format on

constexpr bool names_are_unique() {
  for (const Feature& a : kFeatures) {
    if (std::ranges::count(kFeatures, a.name, &Feature::name) != 1) return false;
  }
  return true;
}
static_assert(names_are_unique());

}  // namespace

std::span<const Feature> features() { return kFeatures; }

const Feature* find_feature(std::string_view name) {
  const auto* const row = std::ranges::find(kFeatures, name, &Feature::name);
  return row == std::end(kFeatures) ? nullptr : row;
}

FeatureState probe_feature(const Feature& feature) {
  FeatureState state{.feature = &feature};
  if (without(feature.name)) {
    state.why_not = "switched off by STASIS_WITHOUT";
    return state;
  }
  const auto result = try_in_child(feature.probe);
  state.available = result.has_value();
  if (!result) state.why_not = result.error().to_string();
  return state;
}

std::vector<FeatureState> probe_features() {
  std::vector<FeatureState> states;
  for (const Feature& feature : kFeatures) states.push_back(probe_feature(feature));
  return states;
}

}  // namespace stasis::kernel
