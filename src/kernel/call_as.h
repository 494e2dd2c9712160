// SPDX-License-Identifier: Apache-2.0
// call_as(): system calls that the kernel remembers the caller of (SO_PEERCRED), made by a process with wanted ids.
#pragma once

#include <cstdint>

#include "stasis/result.h"

namespace stasis::kernel {

struct CallerIdentity {
  std::int32_t pid = 0;  // 0: any
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  friend bool operator==(const CallerIdentity&, const CallerIdentity&) = default;
};

// Runs `call(context)` in a short-lived process that shares our descriptors but not our memory; `call` makes system
// calls only and returns 0 or an errno, which is what this returns. `context` is a copy there, but for shared mappings.
// What keeps the process from being made or from having the ids (a pid in use, no rights) is the error.
Result<int> call_as(const CallerIdentity& identity, int (*call)(void* context) noexcept, void* context);

}  // namespace stasis::kernel
