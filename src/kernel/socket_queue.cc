// SPDX-License-Identifier: Apache-2.0
#include "kernel/socket_queue.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernel/unix_name.h"

namespace stasis::kernel {
namespace {

constexpr std::size_t kMaxFiles = 253;  // SCM_MAX_FD
constexpr std::size_t kControl = CMSG_SPACE(kMaxFiles * sizeof(int)) + CMSG_SPACE(sizeof(ucred)) + 512;
constexpr std::size_t kMaxQueue = std::size_t{64} << 20;

Result<int> int_option(int fd, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, SOL_SOCKET, name, &value, &length) != 0) {
    return Error::from_errno(errno, fmt::format("ask for option {} of a socket", name));
  }
  return value;
}

Result<void> set_peek_offset(int fd, int offset) {
  if (::setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0) return {};
  return Error::from_errno(errno, "set the peek offset of a socket");
}

// Puts the peek offset back as it was.
class ScopedPeekOffset {
 public:
  ScopedPeekOffset(int fd, int previous) : fd_(fd), previous_(previous) {}
  ScopedPeekOffset(const ScopedPeekOffset&) = delete;
  ScopedPeekOffset& operator=(const ScopedPeekOffset&) = delete;
  ~ScopedPeekOffset() { ::setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &previous_, sizeof previous_); }

 private:
  int fd_;
  int previous_;
};

void take_control(msghdr& header, QueuedMessage& message) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    const auto* const data = reinterpret_cast<const std::byte*>(CMSG_DATA(c));
    const std::size_t bytes = c->cmsg_len - CMSG_LEN(0);
    if (c->cmsg_type == SCM_RIGHTS) {
      for (std::size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
        int file = -1;
        std::memcpy(&file, data + at, sizeof file);
        message.files.emplace_back(file);
      }
    } else if (c->cmsg_type == SCM_CREDENTIALS && bytes >= sizeof(ucred)) {
      message.credentials.emplace();
      std::memcpy(&*message.credentials, data, sizeof(ucred));
    }
  }
}

struct Peeked {
  bool any = false;  // else the queue is at its end
  std::size_t real_bytes = 0;
  QueuedMessage message;
};

Result<Peeked> peek_once(int fd, std::span<std::byte> buffer, int flags) {
  alignas(cmsghdr) std::array<std::byte, kControl> control;
  sockaddr_un sender{};
  iovec vector{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_name = &sender;
  header.msg_namelen = sizeof sender;
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | flags);
  if (got < 0 && errno == EAGAIN) return Peeked{};
  if (got < 0) return Error::from_errno(errno, "look into the queue of a socket");
  Peeked peeked{.any = true, .real_bytes = static_cast<std::size_t>(got), .message = {}};
  take_control(header, peeked.message);
  if ((header.msg_flags & MSG_CTRUNC) != 0) {
    return Error(Errc::kSystem, "descriptors in flight could not be received").with_help("raise ulimit -n");
  }
  const auto stored = std::min(peeked.real_bytes, buffer.size());
  peeked.message.bytes.assign(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(stored));
  peeked.message.sender = unix_name(sender, header.msg_namelen);
  return peeked;
}

// A buffer behind which nothing can be written.
class GuardedBuffer {
 public:
  static Result<GuardedBuffer> create(std::size_t bytes) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t size = (bytes + page - 1) / page * page;
    void* const area = ::mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) return Error::from_errno(errno, "map a buffer");
    GuardedBuffer made(area, size + page);
    if (::mprotect(static_cast<std::byte*>(area) + size, page, PROT_NONE) != 0) {
      return Error::from_errno(errno, "protect a buffer");
    }
    made.start_ = static_cast<std::byte*>(area) + size - bytes;
    return made;
  }
  GuardedBuffer(GuardedBuffer&& other) noexcept
      : area_(std::exchange(other.area_, nullptr)), size_(other.size_), start_(other.start_) {}
  GuardedBuffer& operator=(GuardedBuffer&&) = delete;
  ~GuardedBuffer() {
    if (area_ != nullptr) ::munmap(area_, size_);
  }
  std::byte* start() const { return start_; }

 private:
  GuardedBuffer(void* area, std::size_t size) : area_(area), size_(size) {}
  void* area_;
  std::size_t size_;
  std::byte* start_ = nullptr;
};

// A read of a stream goes on into the piece that carries descriptors and ends with it. How many bytes of such a read
// came before that piece: the kernel copies whole pieces, so a buffer that lacks room for the last byte gets all but
// the last piece (net/unix/af_unix.c, unix_stream_read_generic). Leaves the peek offset behind the read.
Result<std::size_t> bytes_before_files(int fd, std::size_t at, std::size_t bytes) {
  const GuardedBuffer buffer = STASIS_TRY(GuardedBuffer::create(bytes - 1));
  STASIS_TRY(set_peek_offset(fd, static_cast<int>(at)));
  const ssize_t got = ::recv(fd, buffer.start(), bytes, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0 && errno != EFAULT) return Error::from_errno(errno, "look into the queue of a socket");
  STASIS_TRY(set_peek_offset(fd, static_cast<int>(at + bytes)));
  return got < 0 ? 0 : static_cast<std::size_t>(got);
}

// A stream: the kernel tells how many bytes there are, so that its end (where a pending error would be taken) is never
// touched.
Result<std::vector<QueuedMessage>> peek_stream(int fd, std::size_t bytes) {
  std::vector<QueuedMessage> messages;
  std::vector<std::byte> buffer(bytes);
  STASIS_TRY(set_peek_offset(fd, 0));
  for (std::size_t at = 0; at < bytes;) {
    Peeked peeked = STASIS_TRY(peek_once(fd, buffer, 0));
    if (!peeked.any || peeked.real_bytes == 0) return Error(Errc::kSystem, "the queue of a socket ended early");
    QueuedMessage& message = peeked.message;
    const std::size_t before = message.files.empty() ? 0 : STASIS_TRY(bytes_before_files(fd, at, peeked.real_bytes));
    if (before > 0 && before < message.bytes.size()) {
      const auto cut = message.bytes.begin() + static_cast<std::ptrdiff_t>(before);
      messages.push_back({{message.bytes.begin(), cut}, {}, message.credentials, {}});
      message.bytes.erase(message.bytes.begin(), cut);
    }
    at += peeked.real_bytes;
    messages.push_back(std::move(message));
  }
  return messages;
}

Result<std::vector<QueuedMessage>> peek_packets(int fd, bool ends) {
  pollfd poll{.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&poll, 1, 0) < 0) return Error::from_errno(errno, "poll a socket");
  if ((poll.revents & POLLERR) != 0) {
    return Error(Errc::kUnsupportedObject, "an error waits on it (its peer is gone), and looking would take it away");
  }
  std::vector<QueuedMessage> messages;
  std::vector<std::byte> buffer(std::size_t{64} << 10);
  std::size_t at = 0;
  STASIS_TRY(set_peek_offset(fd, 0));
  for (;;) {
    Peeked peeked = STASIS_TRY(peek_once(fd, buffer, MSG_TRUNC));
    if (!peeked.any) return messages;
    if (peeked.real_bytes > buffer.size()) {
      if (peeked.real_bytes > kMaxQueue) return Error(Errc::kUnsupportedObject, "a datagram of more than 64 MiB");
      buffer.resize(peeked.real_bytes);
      STASIS_TRY(set_peek_offset(fd, static_cast<int>(at)));
      continue;
    }
    // A seqpacket socket at its end says 0 for ever.
    if (peeked.real_bytes == 0 && ends && peeked.message.files.empty() && !peeked.message.credentials) return messages;
    at += peeked.real_bytes;
    messages.push_back(std::move(peeked.message));
  }
}

}  // namespace

Result<std::vector<QueuedMessage>> peek_queue(int fd) {
  const int type = STASIS_TRY(int_option(fd, SO_TYPE));
  int bytes = 0;
  if (type == SOCK_STREAM) {
    if (::ioctl(fd, FIONREAD, &bytes) != 0) return Error::from_errno(errno, "ask for the bytes in a socket");
    if (bytes <= 0) return std::vector<QueuedMessage>();
    if (static_cast<std::size_t>(bytes) > kMaxQueue) {
      return Error(Errc::kUnsupportedObject, "more than 64 MiB lie in a socket");
    }
  } else {
    pollfd poll{.fd = fd, .events = POLLIN | POLLRDHUP, .revents = 0};
    if (::poll(&poll, 1, 0) < 0) return Error::from_errno(errno, "poll a socket");
    if ((poll.revents & POLLIN) == 0) return std::vector<QueuedMessage>();
    if (type == SOCK_SEQPACKET && (poll.revents & (POLLRDHUP | POLLERR)) != 0 && ::ioctl(fd, FIONREAD, &bytes) == 0 &&
        bytes == 0) {
      return std::vector<QueuedMessage>();
    }
  }
  const ScopedPeekOffset restored(fd, STASIS_TRY(int_option(fd, SO_PEEK_OFF)));
  if (type == SOCK_STREAM) return peek_stream(fd, static_cast<std::size_t>(bytes));
  pollfd poll{.fd = fd, .events = POLLRDHUP, .revents = 0};
  ::poll(&poll, 1, 0);
  return peek_packets(fd, type == SOCK_SEQPACKET && (poll.revents & POLLRDHUP) != 0);
}

Result<std::vector<QueuedDatagram>> peek_datagrams(int fd) {
  const ScopedPeekOffset restored(fd, STASIS_TRY(int_option(fd, SO_PEEK_OFF)));
  STASIS_TRY(set_peek_offset(fd, 0));
  std::vector<QueuedDatagram> datagrams;
  std::vector<std::byte> buffer(65536);  // no UDP datagram is larger
  for (;;) {
    sockaddr_storage sender{};
    socklen_t length = sizeof sender;
    const ssize_t got = ::recvfrom(fd, buffer.data(), buffer.size(), MSG_PEEK | MSG_DONTWAIT,
                                   reinterpret_cast<sockaddr*>(&sender), &length);
    if (got < 0 && errno == EAGAIN) return datagrams;
    if (got < 0) return Error::from_errno(errno, "look into the queue of a UDP socket");
    datagrams.push_back({{buffer.begin(), buffer.begin() + got}, to_inet_address(sender, length)});
  }
}

namespace {

template <class T>
void add_control(msghdr& header, std::size_t& used, int type, std::span<const T> values) {
  auto* const c = reinterpret_cast<cmsghdr*>(static_cast<std::byte*>(header.msg_control) + used);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = type;
  c->cmsg_len = CMSG_LEN(values.size_bytes());
  std::memcpy(CMSG_DATA(c), values.data(), values.size_bytes());
  used += CMSG_SPACE(values.size_bytes());
}

}  // namespace

Result<std::size_t> send_message(int fd, const OutgoingMessage& message) {
  if (message.files.size() > kMaxFiles) return Error(Errc::kBadImage, "too many descriptors in one message");
  alignas(cmsghdr) std::array<std::byte, kControl> control{};
  iovec vector{const_cast<std::byte*>(message.bytes.data()), message.bytes.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  std::size_t used = 0;
  if (!message.files.empty()) add_control(header, used, SCM_RIGHTS, message.files);
  if (message.credentials != nullptr) add_control(header, used, SCM_CREDENTIALS, std::span(message.credentials, 1));
  header.msg_controllen = used;
  if (used == 0) header.msg_control = nullptr;
  UnixAddress address;
  if (!message.destination.empty()) {
    address = STASIS_TRY(UnixAddress::of(message.destination));
    header.msg_name = &address.address;
    header.msg_namelen = address.length;
  }
  const ssize_t sent = ::sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0) return static_cast<std::size_t>(sent);
  const int code = errno;
  Error error = Error::from_errno(code, "fill the queue of a socket");
  return code == EAGAIN || code == ENOBUFS ? std::move(error).with_code(Errc::kBusy) : std::move(error);
}

}  // namespace stasis::kernel
