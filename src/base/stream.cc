// SPDX-License-Identifier: Apache-2.0
#include "base/stream.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"

namespace stasis {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMomentMilliseconds = 100;

// How long nothing has moved, and who is to be asked about it.
class Stall {
 public:
  explicit Stall(const KeepGoing& keep_going) : keep_going_(keep_going) {}

  // Until the descriptor is ready or has an error to tell.
  Result<void> wait(int fd, short events) {
    for (;;) {
      pollfd ready{.fd = fd, .events = events, .revents = 0};
      const int count = ::poll(&ready, 1, kMomentMilliseconds);
      if (count > 0) return {};
      if (count < 0 && errno != EINTR) return Error::from_errno(errno, "poll");
      STASIS_TRY(ask());
    }
  }
  Result<void> ask() { return keep_going_ ? keep_going_(Clock::now() - moved_) : Result<void>(); }
  void moved() { moved_ = Clock::now(); }

 private:
  const KeepGoing& keep_going_;
  Clock::time_point moved_ = Clock::now();
};

bool is_stream(int fd) {
  struct ::stat status{};
  return ::fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
}

// Writes to a stream what goes without waiting. EAGAIN: nothing does.
ssize_t write_now(int fd, std::span<const std::byte> bytes) {
  const iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  const ssize_t written = ::pwritev2(fd, &part, 1, -1, RWF_NOWAIT);
  if (written >= 0 || (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)) return written;
  // One that does not know how: poll(2) has promised room for PIPE_BUF bytes.
  return ::write(fd, bytes.data(), std::min<std::size_t>(bytes.size(), PIPE_BUF));
}

}  // namespace

Result<UniqueFd> open_input(const std::string& path, const KeepGoing& keep_going) {
  if (path == "/dev/stdin") {
    // To open that anew takes rights that whoever was given it need not have.
    UniqueFd input(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
    return input ? Result<UniqueFd>(std::move(input)) : Error::from_errno(errno, "standard input");
  }
  UniqueFd fd = STASIS_TRY(open_at(AT_FDCWD, path, O_RDONLY | O_NOCTTY | O_NONBLOCK));
  struct ::stat status{};
  if (::fstat(fd.get(), &status) != 0) return Error::from_errno(errno, "stat " + path);
  if (S_ISFIFO(status.st_mode)) STASIS_TRY(Stall(keep_going).wait(fd.get(), POLLIN));
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) return Error::from_errno(errno, "fcntl");
  return fd;
}

Result<std::size_t> read_stream(int fd, std::span<std::byte> buffer, const KeepGoing& keep_going) {
  Stall stall(keep_going);
  std::size_t done = 0;
  while (done < buffer.size()) {
    STASIS_TRY(stall.wait(fd, POLLIN));
    const ssize_t got = ::read(fd, buffer.data() + done, buffer.size() - done);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
      STASIS_TRY(stall.ask());
      continue;
    }
    if (got < 0) return Error::from_errno(errno, "read");
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
    stall.moved();
  }
  return done;
}

Result<void> write_stream(int fd, std::span<const std::byte> bytes, const KeepGoing& keep_going) {
  if (!is_stream(fd)) return write_full(fd, bytes);
  Stall stall(keep_going);
  while (!bytes.empty()) {
    STASIS_TRY(stall.wait(fd, POLLOUT));
    const ssize_t written = write_now(fd, bytes);
    if (written < 0 && (errno == EAGAIN || errno == EINTR)) {
      STASIS_TRY(stall.ask());
      continue;
    }
    if (written < 0) return Error::from_errno(errno, "write");
    if (written == 0) return Error(Errc::kIo, "write: the device takes no more bytes");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    stall.moved();
  }
  return {};
}

}  // namespace stasis
