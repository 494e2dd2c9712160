// SPDX-License-Identifier: Apache-2.0
// Lines of /proc/locks and "lock:" lines of /proc/PID/fdinfo/FD (man 5 proc_locks, fs/locks.c).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

enum class LockKind { kPosix, kOfd, kFlock, kLease, kDelegation, kLayout, kOther };
enum class LockAccess { kRead, kWrite, kUnlock, kOther };

struct FileLock {
  std::uint64_t id = 0;
  bool waiting = false;  // "->": asks for the lock before it
  LockKind kind = LockKind::kOther;
  std::string state;  // ADVISORY, MANDATORY, ACTIVE, BREAKING, BREAKER, ...
  LockAccess access = LockAccess::kOther;
  std::int32_t pid = 0;  // -1 for open-file-description locks
  std::uint32_t dev_major = 0;
  std::uint32_t dev_minor = 0;
  std::uint64_t inode = 0;
  std::uint64_t start = 0;           // first byte
  std::optional<std::uint64_t> end;  // last byte; none: to the end of the file
};

// One lock without its newline: "1: POSIX  ADVISORY  WRITE 1234 fd:01:5678 0 EOF". Nothing when malformed.
std::optional<FileLock> parse_lock(std::string_view line);
Result<std::vector<FileLock>> parse_locks(std::string_view text);

}  // namespace stasis::kernel
