// SPDX-License-Identifier: Apache-2.0
// tee(2) duplicates the references to a pipe's buffers into a pipe of ours, packet marks included. Reading ours then
// tells packets from a stream: a read ends at the end of a packet, and drops what it left of it.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <numeric>

#include "base/file.h"
#include "resource/pipe/pipe.h"

namespace stasis {
namespace {

constexpr std::size_t kMaxContents = std::size_t{32} << 20;

struct OwnPipe {
  UniqueFd read_end;
  UniqueFd write_end;

  static Result<OwnPipe> create(int capacity) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return Error::from_errno(errno, "make a pipe");
    OwnPipe own{UniqueFd(ends[0]), UniqueFd(ends[1])};
    if (::fcntl(ends[1], F_SETPIPE_SZ, capacity) < capacity) {
      return Error::from_errno(errno, "make a pipe as large as the program's")
          .with_help("raise /proc/sys/fs/pipe-max-size, or run as root");
    }
    return own;
  }
};

Result<std::size_t> bytes_in(int fd) {
  int bytes = 0;
  if (::ioctl(fd, FIONREAD, &bytes) != 0) return Error::from_errno(errno, "ask for the bytes in a pipe");
  return static_cast<std::size_t>(bytes);
}

Result<OwnPipe> duplicate(int read_end, int capacity, std::size_t bytes) {
  OwnPipe copy = STASIS_TRY(OwnPipe::create(capacity));
  const ssize_t got = ::tee(read_end, copy.write_end.get(), bytes, SPLICE_F_NONBLOCK);
  if (got < 0) return Error::from_errno(errno, "copy the contents of a pipe");
  if (static_cast<std::size_t>(got) == bytes) return copy;
  return Error(Errc::kSystem, "the contents of a pipe changed while they were copied");
}

// One read(2); 0 when the pipe is empty.
Result<std::size_t> read_once(int fd, std::span<std::byte> buffer) {
  const ssize_t got = ::read(fd, buffer.data(), buffer.size());
  if (got >= 0) return static_cast<std::size_t>(got);
  if (errno == EAGAIN) return std::size_t{0};
  return Error::from_errno(errno, "read a copy of a pipe");
}

Result<PipeContents> read_packets(const OwnPipe& copy, std::size_t bytes) {
  PipeContents contents;
  contents.bytes.resize(bytes);
  for (std::size_t at = 0; at < bytes;) {
    const std::size_t got = STASIS_TRY(read_once(copy.read_end.get(), std::span(contents.bytes).subspan(at)));
    if (got == 0) return Error(Errc::kSystem, "a copy of a pipe ended early");
    contents.packets.push_back(static_cast<std::uint32_t>(got));
    at += got;
  }
  return contents;
}

// A descriptor that can read the pipe: the given one, or an opening of its own.
Result<UniqueFd> reader_of(int fd) {
  if ((::fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY) {
    UniqueFd same(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!same) return Error::from_errno(errno, "duplicate a pipe");
    return same;
  }
  return open_at(AT_FDCWD, "/proc/self/fd/" + std::to_string(fd), O_RDONLY | O_NONBLOCK);
}

Result<void> set_flag(int fd, int flag, bool on) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags >= 0 && ::fcntl(fd, F_SETFL, on ? flags | flag : flags & ~flag) == 0) return {};
  return Error::from_errno(errno, "set the flags of a pipe");
}

}  // namespace

Result<PipeContents> copy_contents(int fd, PipeMode mode) {
  const std::size_t bytes = STASIS_TRY(bytes_in(fd));
  if (bytes == 0) return PipeContents{};
  if (bytes > kMaxContents) return Error(Errc::kUnsupportedObject, "a pipe holds more than 32 MiB");
  const int capacity = ::fcntl(fd, F_GETPIPE_SZ);
  if (capacity < 0) return Error::from_errno(errno, "ask for the size of a pipe");
  const UniqueFd reader = STASIS_TRY(reader_of(fd));
  const OwnPipe copy = STASIS_TRY(duplicate(reader.get(), capacity, bytes));
  if (bytes == 1) {
    PipeContents contents = STASIS_TRY(read_packets(copy, bytes));
    if (mode == PipeMode::kStream) contents.packets.clear();
    return contents;
  }
  // All but one byte: of a stream, one is left then; of a single packet, none; of several packets, more than one.
  PipeContents contents;
  contents.bytes.resize(bytes);
  const std::size_t got = STASIS_TRY(read_once(copy.read_end.get(), std::span(contents.bytes).first(bytes - 1)));
  const std::size_t left = STASIS_TRY(bytes_in(copy.read_end.get()));
  if (got == bytes - 1 && left == 1) {
    const auto last = std::span(contents.bytes).last(1);
    if (STASIS_TRY(read_once(copy.read_end.get(), last)) == 1) {
      // Two packets, the second of one byte, look the same so far; in a stream nothing marks the place.
      if (mode == PipeMode::kPacket) {
        const OwnPipe again = STASIS_TRY(duplicate(reader.get(), capacity, bytes));
        contents = STASIS_TRY(read_packets(again, bytes));
        if (contents.packets.size() == 1) contents.packets.clear();  // it was a stream all the same
      }
      return contents;
    }
  }
  const OwnPipe again = STASIS_TRY(duplicate(reader.get(), capacity, bytes));
  return read_packets(again, bytes);
}

Result<void> put_contents(int write_end, const PipeContents& contents) {
  std::span<const std::byte> rest = contents.bytes;
  if (rest.empty()) return {};
  const std::vector<std::uint32_t> whole = {static_cast<std::uint32_t>(rest.size())};
  const bool packets = !contents.packets.empty();
  if (packets) STASIS_TRY(set_flag(write_end, O_DIRECT, true));
  for (const std::uint32_t length : packets ? contents.packets : whole) {
    if (length == 0 || length > rest.size()) return Error(Errc::kBadImage, "packets of a pipe do not add up");
    const ssize_t put = ::write(write_end, rest.data(), length);
    if (put < 0 && errno != EAGAIN) return Error::from_errno(errno, "fill a pipe");
    if (put != static_cast<ssize_t>(length)) return Error(Errc::kSystem, "a pipe does not take its old contents");
    rest = rest.subspan(length);
  }
  if (!rest.empty()) return Error(Errc::kBadImage, "packets of a pipe do not add up");
  return packets ? set_flag(write_end, O_DIRECT, false) : Result<void>();
}

}  // namespace stasis
