// SPDX-License-Identifier: Apache-2.0
// New namespaces for a restart, with privileges (no user namespace) or without (a user namespace first).
//
// Order, in a process of one thread:
//   enter_namespaces(plan)          the caller keeps its pid; its next child is process 1 of the new pid namespace
//   fork, and in the child:
//   settle_in_namespaces()          private mounts, /proc of the new pid namespace
//
// In a new user namespace the caller's own user and group id are mapped to themselves and nothing else is, so getuid()
// stays what it was and no subordinate ids are needed. All other ids show as 65534, supplementary groups too.
// man 7 user_namespaces, pid_namespaces, time_namespaces, mount_namespaces.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kernel/proc_dir.h"
#include "stasis/result.h"

namespace stasis::kernel {

// By how much clocks are ahead of others (negative: behind); for a new time namespace, of the caller's.
struct TimeShift {
  std::int64_t monotonic_ns = 0;
  std::int64_t boottime_ns = 0;
  bool operator==(const TimeShift&) const = default;
};

// By how much the monotonic and boot clocks of a process are ahead of the host's own: those of its children's time
// namespace, which is its own except right after an unshare. Zero where the kernel has no time namespaces.
Result<TimeShift> time_offsets(const ProcDir& proc);

enum class UserNamespace { kKeep, kNew };

struct NamespacePlan {
  UserNamespace user = UserNamespace::kNew;
  std::optional<TimeShift> time;  // without: no time namespace
};

// kKeep for a process that may make namespaces as it is (CAP_SYS_ADMIN), else kNew.
Result<UserNamespace> user_namespace_needed();

// Leaves the calling process in a new mount and ipc namespace (and user namespace), with new pid (and time) namespaces
// for its children. REQUIRES: one thread; its /proc is that of its own pid namespace. Not undone on failure: the
// process is to end then. Forbidden: kNotPermitted, with the setting that forbids it where that can be found out.
Result<void> enter_namespaces(const NamespacePlan& plan);

// In process 1 of the new pid namespace: takes its mounts out of propagation and mounts /proc anew.
Result<void> settle_in_namespaces();

// Does the calling process have this capability (CAP_*) in effect, in its own user namespace?
Result<bool> has_capability(int capability);

// The content of a /proc/PID/timens_offsets (man 7 time_namespaces); malformed, or beyond 64 bits of nanoseconds:
// kSystem.
Result<TimeShift> parse_time_offsets(std::string_view text);

// The text for /proc/PID/timens_offsets that adds `shift` to the offsets in `current` (the file's content, man 7
// time_namespaces). Sums that overflow: kOverflow; malformed text: kSystem.
Result<std::string> shifted_time_offsets(std::string_view current, const TimeShift& shift);

}  // namespace stasis::kernel
