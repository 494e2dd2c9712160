// SPDX-License-Identifier: Apache-2.0
#include "kernel/tcp_repair.h"

#include <fmt/core.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>

namespace stasis::kernel {
namespace {

constexpr int kRepairOffNoProbe = -1;  // TCP_REPAIR_OFF_NO_WP
// include/net/tcp.h; the C library's header with them can't be had together with the kernel's.
constexpr std::uint32_t kOptMaxSegment = 2, kOptWindow = 3, kOptSackPermitted = 4, kOptTimestamp = 8;
constexpr std::size_t kMaxQueue = std::size_t{256} << 20;

Result<void> set(int fd, int name, std::uint32_t value, std::string_view what) {
  if (::setsockopt(fd, IPPROTO_TCP, name, &value, sizeof value) == 0) return {};
  const int code = errno;
  Error error = Error::from_errno(code, what);
  if (code != EPERM) return error;
  return std::move(error).with_code(Errc::kMissingCapability).with_help("CAP_NET_ADMIN is needed: run as root");
}

Result<std::uint32_t> get(int fd, int name, std::string_view what) {
  std::uint32_t value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, IPPROTO_TCP, name, &value, &length) == 0) return value;
  return Error::from_errno(errno, what);
}

Result<std::uint32_t> bytes_by(int fd, unsigned long request) {
  int bytes = 0;
  if (::ioctl(fd, request, &bytes) != 0) return Error::from_errno(errno, "ask for the queue of a TCP socket");
  return static_cast<std::uint32_t>(std::max(bytes, 0));
}

// include/net/tcp_states.h
constexpr int kFinWait1 = 4, kFinWait2 = 5, kCloseWait = 8, kLastAck = 9, kClosing = 11;

Result<int> state_of(int fd) {
  ::tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0) return int{info.tcpi_state};
  return Error::from_errno(errno, "ask for the state of a TCP socket");
}

// The queue that is selected.
Result<std::vector<std::byte>> peek(int fd, std::size_t bytes) {
  if (bytes > kMaxQueue) return Error(Errc::kUnsupportedObject, "more than 256 MiB lie in a TCP socket");
  std::vector<std::byte> data(bytes);
  if (bytes == 0) return data;
  const ssize_t got = ::recv(fd, data.data(), data.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got == static_cast<ssize_t>(bytes)) return data;
  if (got < 0 && errno != EAGAIN) return Error::from_errno(errno, "read the queue of a TCP socket");
  data.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return data;
}

// Nothing: it did not stand still meanwhile.
Result<std::optional<TcpConnection>> read_in_repair(int fd) {
  TcpConnection connection;
  const std::uint32_t unread = STASIS_TRY(bytes_by(fd, SIOCINQ));
  const std::uint32_t outstanding = STASIS_TRY(bytes_by(fd, SIOCOUTQ));
  connection.unsent = STASIS_TRY(bytes_by(fd, SIOCOUTQNSD));
  const int now = STASIS_TRY(state_of(fd));
  const std::uint32_t end_outstanding = now == kFinWait1 || now == kLastAck || now == kClosing ? 1 : 0;
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE, "select the receive queue"));
  connection.receive_sequence = STASIS_TRY(get(fd, TCP_QUEUE_SEQ, "ask for a sequence number"));
  connection.unread = STASIS_TRY(peek(fd, unread));
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "select the send queue"));
  connection.send_sequence = STASIS_TRY(get(fd, TCP_QUEUE_SEQ, "ask for a sequence number"));
  const std::uint32_t wanted = outstanding - std::min(outstanding, end_outstanding);
  connection.unacknowledged = STASIS_TRY(peek(fd, wanted));
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "select no queue"));
  if (connection.unread.size() != unread || connection.unacknowledged.size() != wanted) return std::nullopt;
  connection.mss = STASIS_TRY(get(fd, TCP_MAXSEG, "ask for the segment size"));
  ::tcp_info info{};
  socklen_t length = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
    return Error::from_errno(errno, "ask for the state of a TCP socket");
  }
  connection.window_scaling = (info.tcpi_options & TCPI_OPT_WSCALE) != 0;
  connection.send_scale = info.tcpi_snd_wscale;
  connection.receive_scale = info.tcpi_rcv_wscale;
  connection.selective_acknowledgement = (info.tcpi_options & TCPI_OPT_SACK) != 0;
  if ((info.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0) {
    connection.timestamp = STASIS_TRY(get(fd, TCP_TIMESTAMP, "ask for the timestamp"));
  }
  tcp_repair_window window{};
  length = sizeof window;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &length) != 0) {
    return Error::from_errno(errno, "ask for the windows of a TCP socket");
  }
  // An end of the stream takes a number of its own.
  const int state = info.tcpi_state;
  connection.end_received = state == kCloseWait || state == kLastAck || state == kClosing;
  connection.end_sent = state == kFinWait1 || state == kFinWait2 || state == kLastAck || state == kClosing;
  if (connection.end_received) --connection.receive_sequence;
  if (connection.end_sent) --connection.send_sequence;
  connection.window = {window.snd_wl1, window.snd_wnd, window.max_window, window.rcv_wnd, window.rcv_wup};
  // The window's edge may count the end of the stream, which is received again.
  auto& edge = connection.window.rcv_wup;
  if (static_cast<std::int32_t>(edge - connection.receive_sequence) > 0) edge = connection.receive_sequence;
  return connection;
}

void enlarge_buffers(int fd) {
  const int room = static_cast<int>(kMaxQueue);
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
}

// Into the queue that is selected.
Result<void> put(int fd, std::span<const std::byte> data) {
  bool enlarged = false;
  while (!data.empty()) {
    // The kernel takes a piece as one buffer and may lack memory for a large one.
    const auto piece = std::min<std::size_t>(data.size(), 32768);
    const ssize_t sent = ::send(fd, data.data(), piece, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0 && !enlarged && (errno == EAGAIN || errno == ENOMEM)) {
      enlarged = true;
      enlarge_buffers(fd);
      continue;
    }
    if (sent <= 0) return Error::from_errno(errno, "fill the queue of a TCP socket");
    data = data.subspan(static_cast<std::size_t>(sent));
  }
  return {};
}

std::span<const std::byte> sent_part(const TcpConnection& connection) {
  const std::size_t unsent = std::min<std::size_t>(connection.unsent, connection.unacknowledged.size());
  return std::span(connection.unacknowledged).first(connection.unacknowledged.size() - unsent);
}

Result<void> set_options(int fd, const TcpConnection& connection) {
  std::vector<tcp_repair_opt> options{{kOptMaxSegment, connection.mss}};
  if (connection.window_scaling) {
    options.push_back({kOptWindow, connection.send_scale | (std::uint32_t{connection.receive_scale} << 16)});
  }
  if (connection.selective_acknowledgement) options.push_back({kOptSackPermitted, 0});
  if (connection.timestamp) options.push_back({kOptTimestamp, 0});
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(),
                   static_cast<socklen_t>(options.size() * sizeof(tcp_repair_opt))) != 0) {
    return Error::from_errno(errno, "set what a TCP connection agreed on");
  }
  if (!connection.timestamp) return {};
  return set(fd, TCP_TIMESTAMP, *connection.timestamp, "set the timestamp of a TCP connection");
}

}  // namespace

Result<void> enter_repair(int fd) { return set(fd, TCP_REPAIR, 1, "take a TCP connection out of the kernel"); }
Result<void> leave_repair(int fd) {
  return set(fd, TCP_REPAIR, static_cast<std::uint32_t>(kRepairOffNoProbe), "let a TCP connection go on");
}
Result<void> leave_repair_with_probe(int fd) { return set(fd, TCP_REPAIR, 0, "let a TCP connection go on"); }

namespace {

Result<std::optional<TcpConnection>> read_once(int fd) {
  // Repair mode has an idea of its own of SO_REUSEADDR, and leaves it off.
  int reuse = 0;
  socklen_t length = sizeof reuse;
  ::getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, &length);
  STASIS_TRY(enter_repair(fd));
  auto connection = read_in_repair(fd);
  const auto left = leave_repair(fd);
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  STASIS_TRY(left);
  return connection;
}

// Nothing came or went between two readings.
bool stood_still(const std::optional<TcpConnection>& before, const std::optional<TcpConnection>& after) {
  if (!before || !after) return false;
  const auto place = [](const TcpConnection& c) {
    return std::tuple(c.receive_sequence, c.unread.size(), c.send_sequence, c.unacknowledged.size(), c.unsent,
                      c.end_sent, c.end_received);
  };
  return place(*before) == place(*after);
}

constexpr int kReadings = 200;
constexpr useconds_t kPause = 1000;

Error never_still() {
  return Error(Errc::kUnsupportedObject, "a TCP connection does not come to rest").with_help("try again in a moment");
}

}  // namespace

Result<TcpConnection> read_tcp_connection(int fd) {
  auto before = STASIS_TRY(read_once(fd));
  for (int i = 0; i < kReadings; ++i) {
    auto after = STASIS_TRY(read_once(fd));
    if (stood_still(before, after)) return *std::move(after);
    before = std::move(after);
    ::usleep(kPause);
  }
  return never_still();
}

Result<std::pair<TcpConnection, TcpConnection>> read_tcp_connections(int one, int other) {
  auto before = std::pair(STASIS_TRY(read_once(one)), STASIS_TRY(read_once(other)));
  for (int i = 0; i < kReadings; ++i) {
    auto after = std::pair(STASIS_TRY(read_once(one)), STASIS_TRY(read_once(other)));
    if (stood_still(before.first, after.first) && stood_still(before.second, after.second)) {
      return std::pair(*std::move(after.first), *std::move(after.second));
    }
    before = std::move(after);
    ::usleep(kPause);
  }
  return never_still();
}

Result<void> write_tcp_connection(int fd, const TcpConnection& connection, const InetAddress& local,
                                  const InetAddress& remote) {
  STASIS_TRY(enter_repair(fd));
  const auto unread = static_cast<std::uint32_t>(connection.unread.size());
  const auto outstanding = static_cast<std::uint32_t>(connection.unacknowledged.size());
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE, "select the receive queue"));
  STASIS_TRY(set(fd, TCP_QUEUE_SEQ, connection.receive_sequence - unread, "set a sequence number"));
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "select the send queue"));
  STASIS_TRY(set(fd, TCP_QUEUE_SEQ, connection.send_sequence - outstanding, "set a sequence number"));
  const InetSocketAddress from(local), to(remote);
  if (::bind(fd, from.get(), from.length) != 0) return Error::from_errno(errno, "bind to " + local.to_string());
  if (::connect(fd, to.get(), to.length) != 0) return Error::from_errno(errno, "connect to " + remote.to_string());
  STASIS_TRY(set_options(fd, connection));
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE, "select the receive queue"));
  STASIS_TRY(put(fd, connection.unread));
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "select the send queue"));
  STASIS_TRY(put(fd, sent_part(connection)));
  STASIS_TRY(set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "select no queue"));
  const TcpWindow& w = connection.window;
  const tcp_repair_window window{w.snd_wl1, w.snd_wnd, w.max_window, w.rcv_wnd, w.rcv_wup};
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof window) != 0) {
    return Error::from_errno(errno, "set the windows of a TCP connection");
  }
  return {};
}

Result<void> send_unsent(int fd, const TcpConnection& connection) {
  auto rest = std::span(connection.unacknowledged).subspan(sent_part(connection).size());
  bool enlarged = false;
  while (!rest.empty()) {
    const ssize_t sent = ::send(fd, rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0 && errno == EAGAIN && !enlarged) {
      enlarged = true;
      enlarge_buffers(fd);
      continue;
    }
    if (sent <= 0) return Error::from_errno(errno, "fill the send queue of a TCP socket");
    rest = rest.subspan(static_cast<std::size_t>(sent));
  }
  return {};
}

}  // namespace stasis::kernel
