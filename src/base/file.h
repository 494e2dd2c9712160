// SPDX-License-Identifier: Apache-2.0
// Whole reads and writes: short transfers and EINTR are handled here and nowhere else.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {

// openat(2) with O_CLOEXEC added. `dir` may be AT_FDCWD.
Result<UniqueFd> open_at(int dir, const std::string& path, int flags, mode_t mode = 0);
// The whole of a (possibly unseekable, size-less) file such as those in /proc; at most `limit` bytes, more is an error.
Result<std::string> read_file(int dir, const std::string& path, std::size_t limit = std::size_t{1} << 30);
Result<std::string> read_fd(int fd, std::size_t limit = std::size_t{1} << 30);
// Reads until `buffer` is full or the end; returns the bytes read.
Result<std::size_t> read_full(int fd, std::span<std::byte> buffer);
Result<std::size_t> pread_full(int fd, std::span<std::byte> buffer, off_t offset);
// Writes everything or fails.
Result<void> write_full(int fd, std::span<const std::byte> bytes);
Result<void> pwrite_full(int fd, std::span<const std::byte> bytes, off_t offset);
// readlink(2) of any length.
Result<std::string> read_link(int dir, const std::string& path);

}  // namespace stasis
