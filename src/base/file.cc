// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace stasis {
namespace {

// Calls `transfer(offset_in_buffer, bytes_left)` until all is moved, the end is met, or it fails.
template <class Transfer>
Result<std::size_t> repeat(std::size_t total, const char* what, Transfer transfer) {
  std::size_t done = 0;
  while (done < total) {
    const ssize_t n = transfer(done, total - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::from_errno(errno, what);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

Result<void> all_or_error(Result<std::size_t> moved, std::size_t wanted) {
  if (!moved) return Error(std::move(moved).error());
  if (*moved != wanted) return Error(Errc::kIo, "write: the device takes no more bytes");
  return {};
}

}  // namespace

Result<UniqueFd> open_at(int dir, const std::string& path, int flags, mode_t mode) {
  for (;;) {
    UniqueFd fd(::openat(dir, path.c_str(), flags | O_CLOEXEC, mode));
    if (fd) return fd;
    if (errno != EINTR) return Error::from_errno(errno, "open " + path);
  }
}

Result<std::string> read_fd(int fd, std::size_t limit) {
  std::string text;
  std::size_t filled = 0;
  for (std::size_t step = 4096;; step = std::min<std::size_t>(step * 2, std::size_t{1} << 20)) {
    text.resize(filled + step);
    const std::size_t got = STASIS_TRY(read_full(fd, std::as_writable_bytes(std::span(text).subspan(filled))));
    filled += got;
    if (got < step) break;
    if (filled > limit) return Error(Errc::kOverflow, "read: file is larger than expected");
  }
  text.resize(filled);
  return text;
}

Result<std::string> read_file(int dir, const std::string& path, std::size_t limit) {
  const UniqueFd fd = STASIS_TRY(open_at(dir, path, O_RDONLY));
  auto text = read_fd(fd.get(), limit);
  if (!text) return std::move(text).error().note(path);
  return text;
}

Result<std::size_t> read_full(int fd, std::span<std::byte> buffer) {
  return repeat(buffer.size(), "read",
                [&](std::size_t done, std::size_t left) { return ::read(fd, buffer.data() + done, left); });
}

Result<std::size_t> pread_full(int fd, std::span<std::byte> buffer, off_t offset) {
  return repeat(buffer.size(), "pread", [&](std::size_t done, std::size_t left) {
    return ::pread(fd, buffer.data() + done, left, offset + static_cast<off_t>(done));
  });
}

Result<void> write_full(int fd, std::span<const std::byte> bytes) {
  return all_or_error(
      repeat(bytes.size(), "write",
             [&](std::size_t done, std::size_t left) { return ::write(fd, bytes.data() + done, left); }),
      bytes.size());
}

Result<void> pwrite_full(int fd, std::span<const std::byte> bytes, off_t offset) {
  return all_or_error(repeat(bytes.size(), "pwrite",
                             [&](std::size_t done, std::size_t left) {
                               return ::pwrite(fd, bytes.data() + done, left, offset + static_cast<off_t>(done));
                             }),
                      bytes.size());
}

Result<std::string> read_link(int dir, const std::string& path) {
  std::vector<char> buffer(256);
  for (;;) {
    const ssize_t n = ::readlinkat(dir, path.c_str(), buffer.data(), buffer.size());
    if (n < 0) return Error::from_errno(errno, "readlink " + path);
    if (static_cast<std::size_t>(n) < buffer.size()) return std::string(buffer.data(), static_cast<std::size_t>(n));
    buffer.resize(buffer.size() * 2);
  }
}

}  // namespace stasis
