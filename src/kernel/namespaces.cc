// SPDX-License-Identifier: Apache-2.0
#include "kernel/namespaces.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

#include "base/file.h"
#include "kernel/proc_dir.h"
#include "kernel/proc_text.h"
#include "kernel/raw.h"
#include "kernel/without.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace stasis::kernel {
namespace {

constexpr std::int64_t kNsPerSecond = 1'000'000'000;

// The value of a sysctl that is one number, or nothing.
std::optional<long> sysctl(const char* path) {
  const auto text = read_file(AT_FDCWD, path, 256);
  long value = 0;
  if (!text || !text::number(text::trim(text->substr(0, text->find('\n'))), value)) return std::nullopt;
  return value;
}

// Which setting forbids user namespaces here? Empty when none is known to.
std::string_view forbidding_setting() {
  if (sysctl("/proc/sys/user/max_user_namespaces") == 0) {
    return "user namespaces are switched off: sysctl user.max_user_namespaces is 0";
  }
  if (sysctl("/proc/sys/kernel/unprivileged_userns_clone") == 0) {
    return "sysctl kernel.unprivileged_userns_clone is 0; set it to 1, or run as root";
  }
  if (sysctl("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1) {
    return "AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns is 1; set it to 0, "
           "give stasis a profile, or run as root";
  }
  if (::geteuid() == sysctl("/proc/sys/kernel/overflowuid")) {
    return "this user may have no id in the user namespace it is in; run stasis outside of it";
  }
  return "a container's seccomp filter, a chroot or a limit may forbid it; run as root, or outside of it";
}

Error forbidden(int code, std::string_view operation, UserNamespace user) {
  const bool no_room = code == ENOSPC || code == EUSERS;  // a limit on the number of namespaces, or their depth
  Error error = Error::from_errno(code, operation);
  if (code != EPERM && code != EACCES && !no_room) return error;
  std::string_view help = forbidding_setting();
  if (user == UserNamespace::kKeep) {
    help = "needs CAP_SYS_ADMIN (for a time namespace CAP_SYS_TIME too)";
  } else if (no_room) {
    help = "see sysctl user.max_user_namespaces and the other user.max_* limits";
  }
  return std::move(error).with_code(Errc::kNotPermitted).with_help(help);
}

Result<void> write_file(const std::string& path, const std::string& text) {
  const UniqueFd fd = STASIS_TRY(open_at(AT_FDCWD, path, O_WRONLY));
  // One write: the kernel takes these files only whole.
  if (raw("write", SYS_write, fd.get(), text.data(), text.size()) < 0) return Error::from_errno(errno, "write " + path);
  return {};
}

Result<void> map_own_ids(uid_t uid, gid_t gid) {
  // A gid map of one's own may be written only once setgroups(2) is given up.
  auto denied = write_file("/proc/self/setgroups", "deny");
  if (denied) denied = write_file("/proc/self/uid_map", fmt::format("{0} {0} 1", uid));
  if (denied) denied = write_file("/proc/self/gid_map", fmt::format("{0} {0} 1", gid));
  if (denied) return {};
  return forbidden(denied.error().sys_errno(), "map the own user and group id", UserNamespace::kNew);
}

Result<void> shift_time(const TimeShift& shift, UserNamespace user) {
  constexpr const char* kPath = "/proc/self/timens_offsets";
  const std::string current = STASIS_TRY(read_file(AT_FDCWD, kPath, 4096));
  const std::string wanted = STASIS_TRY(shifted_time_offsets(current, shift));
  const auto written = write_file(kPath, wanted);
  if (written) return {};
  if (written.error().sys_errno() == ERANGE) {
    return Error(Errc::kOverflow, "the clocks of the image can't be continued here: the shift is out of range");
  }
  return forbidden(written.error().sys_errno(), "set the clocks of the time namespace", user);
}

// "monotonic  -12  500000000": whole seconds, rounded down, and nanoseconds.
struct TimeOffsetLine {
  std::string_view clock;
  std::int64_t seconds = 0;
  std::int64_t nanoseconds = 0;
};

bool parse_offset(std::string_view line, TimeOffsetLine& offset) {
  offset.clock = text::take_word(line);
  return text::number(text::take_word(line), offset.seconds) &&
         text::number(text::take_word(line), offset.nanoseconds) && offset.nanoseconds >= 0 &&
         offset.nanoseconds < kNsPerSecond && text::trim(line).empty();
}

// Numbers for 1 and 7, which older kernels print, are CLOCK_MONOTONIC and CLOCK_BOOTTIME.
bool is_monotonic(const TimeOffsetLine& offset) { return offset.clock == "monotonic" || offset.clock == "1"; }
bool is_boottime(const TimeOffsetLine& offset) { return offset.clock == "boottime" || offset.clock == "7"; }

bool add(TimeOffsetLine& offset, std::int64_t shift_ns) {
  std::int64_t seconds = shift_ns / kNsPerSecond;
  std::int64_t rest = shift_ns % kNsPerSecond + offset.nanoseconds;
  if (rest < 0) {
    rest += kNsPerSecond;
    --seconds;
  } else if (rest >= kNsPerSecond) {
    rest -= kNsPerSecond;
    ++seconds;
  }
  offset.nanoseconds = rest;
  return !__builtin_add_overflow(offset.seconds, seconds, &offset.seconds);
}

}  // namespace

Result<TimeShift> parse_time_offsets(std::string_view text) {
  TimeShift shift;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    TimeOffsetLine offset;
    std::int64_t sum = 0;
    if (!parse_offset(line, offset) || __builtin_mul_overflow(offset.seconds, kNsPerSecond, &sum) ||
        __builtin_add_overflow(sum, offset.nanoseconds, &sum)) {
      return text::malformed("timens_offsets", line);
    }
    if (is_monotonic(offset)) shift.monotonic_ns = sum;
    if (is_boottime(offset)) shift.boottime_ns = sum;
  }
  return shift;
}

Result<TimeShift> time_offsets(const ProcDir& proc) {
  const auto text = proc.read("timens_offsets");
  if (text) return parse_time_offsets(*text);
  if (text.error().sys_errno() == ENOENT && proc.check_alive()) return TimeShift{};
  return text.error();
}

Result<std::string> shifted_time_offsets(std::string_view current, const TimeShift& shift) {
  std::string wanted;
  while (!current.empty()) {
    const std::string_view line = text::take_line(current);
    TimeOffsetLine offset;
    if (!parse_offset(line, offset)) return text::malformed("timens_offsets", line);
    if (!is_monotonic(offset) && !is_boottime(offset)) continue;
    if (!add(offset, is_monotonic(offset) ? shift.monotonic_ns : shift.boottime_ns)) {
      return Error(Errc::kOverflow, "the clocks of the image can't be continued here: the shift is out of range");
    }
    wanted += fmt::format("{} {} {}\n", offset.clock, offset.seconds, offset.nanoseconds);
  }
  if (wanted.empty()) return text::malformed("timens_offsets", "");
  return wanted;
}

Result<bool> has_capability(int capability) {
  const ProcDir self = STASIS_TRY(ProcDir::open(HostPid(::getpid())));
  return (STASIS_TRY(self.status()).cap_effective >> capability & 1) != 0;
}

Result<UserNamespace> user_namespace_needed() {
  return STASIS_TRY(has_capability(CAP_SYS_ADMIN)) ? UserNamespace::kKeep : UserNamespace::kNew;
}

Result<void> enter_namespaces(const NamespacePlan& plan) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  const bool new_user = plan.user == UserNamespace::kNew;
  if (new_user) {
    if (without("user_namespace")) return forbidden(EPERM, "make a user namespace", plan.user);
    if (raw("unshare", SYS_unshare, CLONE_NEWUSER) != 0) {
      if (errno == EINVAL) return Error(Errc::kInternal, "namespaces can only be made by a process of one thread");
      return forbidden(errno, "make a user namespace", plan.user);
    }
    STASIS_TRY(map_own_ids(uid, gid));
  }
  if (raw("unshare", SYS_unshare, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC) != 0) {
    return forbidden(errno, "make pid, mount and ipc namespaces", plan.user);
  }
  if (!plan.time) return {};
  if (without("time_namespace") || raw("unshare", SYS_unshare, CLONE_NEWTIME) != 0) {
    const int code = without("time_namespace") ? EINVAL : errno;
    if (code != EINVAL) return forbidden(code, "make a time namespace", plan.user);
    return Error(Errc::kKernelFeature, "this kernel has no time namespaces").with_help("needs CONFIG_TIME_NS");
  }
  return shift_time(*plan.time, plan.user);
}

Result<void> settle_in_namespaces() {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return Error::from_errno(errno, "make mounts private");
  }
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0) return {};
  const int code = errno;
  Error error = Error::from_errno(code, "mount /proc");
  if (code != EPERM) return error;
  return std::move(error).with_help(
      "the present /proc is partly hidden, as in many containers, so the kernel allows no new one; run the container "
      "with "
      "an unmasked /proc");
}

}  // namespace stasis::kernel
