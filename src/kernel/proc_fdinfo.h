// SPDX-License-Identifier: Apache-2.0
// /proc/PID/fdinfo/FD (man 5 proc, fs/proc/fd.c): what every descriptor has, then lines of its kind.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/proc_locks.h"
#include "stasis/result.h"

namespace stasis::kernel {

struct FdInfo {
  std::int64_t pos = 0;
  std::uint32_t flags = 0;  // O_*, with O_CLOEXEC for the descriptor
  std::int32_t mnt_id = 0;
  std::optional<std::uint64_t> ino;  // Linux 5.14
  std::vector<FileLock> locks;       // "lock:" lines
  // All other lines, each with its newline: eventfd-count, tfd, inotify, clockid, sigmask, Pid, ...
  std::string rest;
};

Result<FdInfo> parse_fdinfo(std::string_view text);

// The value of the first line "key:value" or "key: value" of `rest`; nothing when there is none. For the parsers of a
// kind of descriptor.
std::optional<std::string_view> fdinfo_value(std::string_view rest, std::string_view key);

}  // namespace stasis::kernel
