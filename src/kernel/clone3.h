// SPDX-License-Identifier: Apache-2.0
// clone3(2): its argument structure, for calls made here and calls made by a tracee, and the call itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

// struct clone_args, include/uapi/linux/sched.h, version 2. CLONE_* flags: <linux/sched.h>.
struct CloneArgs {
  std::uint64_t flags = 0;
  std::uint64_t pidfd = 0;       // address
  std::uint64_t child_tid = 0;   // address
  std::uint64_t parent_tid = 0;  // address
  std::uint64_t exit_signal = 0;
  std::uint64_t stack = 0;
  std::uint64_t stack_size = 0;
  std::uint64_t tls = 0;
  std::uint64_t set_tid = 0;  // address of set_tid_size pids, innermost namespace first
  std::uint64_t set_tid_size = 0;
  std::uint64_t cgroup = 0;
};
static_assert(sizeof(CloneArgs) == 88 && offsetof(CloneArgs, set_tid) == 64);

// What the new process does; must not return. It runs on a copy of the caller's stack but without libc's fork handling:
// system calls only, no malloc, no locks, no stdio.
using ChildFunction = void (*)(void* context) noexcept;

// A process (no CLONE_VM) that runs `child(context)`. Its pids are `pids` (innermost namespace first; empty: the
// kernel's choice). Returns the pid as seen by the caller. A wanted pid in use: kPidTaken; not permitted to choose:
// kNotPermitted.
Result<HostPid> clone3_process(std::uint64_t flags, int exit_signal, std::span<const std::int32_t> pids,
                               ChildFunction child, void* context);

}  // namespace stasis::kernel
