// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"
#include "kernel/multicast.h"
#include "resource/inet_socket/inet_socket.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

Result<UniqueFd> make_socket(const InetSocketRecord& record) {
  const int type = record.tcp ? SOCK_STREAM : record.raw ? SOCK_RAW : SOCK_DGRAM;
  UniqueFd fd(::socket(record.v6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, record.protocol));
  if (fd) return fd;
  Error error = Error::from_errno(errno, record.raw ? "make a raw socket" : "make a network socket");
  if (!record.raw || error.sys_errno() != EPERM) return error;
  return std::move(error).with_code(Errc::kMissingCapability).with_help("it takes CAP_NET_RAW: run as root");
}

Error in_use(int code, const kernel::InetAddress& address) {
  Error error = Error::from_errno(code, "bind to " + address.to_string());
  if (code == EADDRINUSE) return std::move(error).with_code(Errc::kExternalPeer).with_help("end who uses that port");
  if (code == EACCES) return std::move(error).with_help("ports below 1024 take CAP_NET_BIND_SERVICE");
  return error;
}

// A remainder of the program's former life (TIME_WAIT) is no obstacle.
class ScopedReuse {
 public:
  explicit ScopedReuse(int fd) : fd_(fd) {
    socklen_t length = sizeof previous_;
    ::getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &previous_, &length);
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  }
  ScopedReuse(const ScopedReuse&) = delete;
  ScopedReuse& operator=(const ScopedReuse&) = delete;
  ~ScopedReuse() { ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &previous_, sizeof previous_); }

 private:
  int fd_;
  int previous_ = 0;
};

constexpr std::uint32_t kMaxTurn = 1 << 16;  // no more can wait

Result<void> check(const InetSocketRecord& record) {
  const auto wrong_family = [&](const std::optional<InetAddressRecord>& address) {
    return address && address->v6 != record.v6;
  };
  const bool connection = record.role == InetRole::kConnection || record.role == InetRole::kUnaccepted;
  const bool tcp_only = record.role == InetRole::kListening || record.role == InetRole::kReset || connection;
  const bool needs_both = connection || record.role == InetRole::kConnected;
  const bool ping = record.protocol == IPPROTO_ICMP || record.protocol == IPPROTO_ICMPV6;
  const bool odd_protocol =
      record.tcp ? record.raw || record.protocol != 0 : !record.raw && !ping && record.protocol != 0;
  const bool bad = wrong_family(record.local) || wrong_family(record.remote) || (tcp_only && !record.tcp) ||
                   (record.role == InetRole::kConnected && record.tcp) ||
                   (needs_both && (!record.local || !record.remote)) ||
                   (record.role == InetRole::kConnection) != record.connection.has_value() ||
                   (record.role == InetRole::kListening && !record.local) || odd_protocol ||
                   (record.tcp && !record.queue.empty()) || (record.tcp && !record.groups.empty());
  if (bad || record.turn > kMaxTurn) return Error(Errc::kBadImage, "a network socket is malformed");
  return {};
}

kernel::TcpConnection to_connection(TcpConnectionRecord record) {
  return {.unread = std::move(record.unread),
          .receive_sequence = record.receive_sequence,
          .unacknowledged = std::move(record.unacknowledged),
          .send_sequence = record.send_sequence,
          .unsent = record.unsent,
          .mss = record.mss,
          .window_scaling = record.window_scaling,
          .send_scale = record.send_scale,
          .receive_scale = record.receive_scale,
          .selective_acknowledgement = record.selective_acknowledgement,
          .timestamp = record.timestamp,
          .window = {record.window[0], record.window[1], record.window[2], record.window[3], record.window[4]},
          .end_sent = record.end_sent,
          .end_received = record.end_received};
}

Result<void> join(int fd, const MulticastGroupRecord& record) {
  kernel::MulticastGroup group{.address = record.address.address(),
                               .interface = 0,
                               .interface_name = record.interface,
                               .include = record.include,
                               .sources = {}};
  for (const InetAddressRecord& source : record.sources) group.sources.push_back(source.address());
  return kernel::join_group(fd, group);
}

}  // namespace

Result<void*> restore_inet_socket(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  InetSocketRecord record = STASIS_TRY(ctx.image.read<InetSocketRecord>());
  STASIS_TRY(check(record));
  auto socket = std::make_unique<RestoredInetSocket>(std::move(record));
  STASIS_TRY(socket->create(ctx));
  // The hash keeps the object until the deferred works have run.
  STASIS_TRY(ctx.deferred.add([&ctx, &socket = *socket] { return socket.bind(ctx); }));
  return to_object(std::move(socket));
}

Result<void> RestoredInetSocket::create(RestartContext& ctx) {
  // Who has it may send anything in anybody's name.
  if (record_.raw && ctx.owner.trust == ImageTrust::kOwner) {
    return Error(Errc::kNotPermitted,
                 fmt::format("the image belongs to user {}, who may have no raw sockets", ctx.owner.uid))
        .with_help("if you trust it, make it your own (chown)");
  }
  UniqueFd made = STASIS_TRY(make_socket(record_));
  fd = STASIS_TRY(ctx.park(std::move(made)));
  STASIS_TRY(restore_socket_options(fd.get(), record_.options, OptionPhase::kBeforeBind));
  if (record_.role == InetRole::kConnection) return make_connection();
  return record_.role == InetRole::kReset ? make_reset() : Result<void>();
}

void RestoredInetSocket::replace(UniqueFd other) {
  fd = std::move(other);
  replaced_ = true;
}

Result<void> RestoredInetSocket::make_connection() {
  connection_ = to_connection(*std::move(record_.connection));
  // The queues fitted into the buffers that the program had.
  STASIS_TRY(restore_socket_options(fd.get(), record_.options, OptionPhase::kBuffers));
  return kernel::write_tcp_connection(fd.get(), *connection_, record_.local->address(), record_.remote->address());
}

// A connection that was reset: by a far end of ours, over loopback, that closes without a farewell.
Result<void> RestoredInetSocket::make_reset() {
  const UniqueFd listener = STASIS_TRY(make_socket(record_));
  kernel::InetAddress here{.v6 = record_.v6};
  if (record_.v6) {
    here.bytes[15] = 1;
  } else {
    here.bytes = {127, 0, 0, 1};
  }
  const kernel::InetSocketAddress any_port(here);
  if (::bind(listener.get(), any_port.get(), any_port.length) != 0 || ::listen(listener.get(), 1) != 0) {
    return Error::from_errno(errno, "listen on a loopback address");
  }
  const auto bound = STASIS_TRY(kernel::inet_socket_state(listener.get()));
  const kernel::InetSocketAddress to(bound && bound->local ? *bound->local : here);
  if (::connect(fd.get(), to.get(), to.length) != 0) return Error::from_errno(errno, "connect to a loopback address");
  const UniqueFd far_end(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!far_end) return Error::from_errno(errno, "accept on a loopback address");
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  if (::setsockopt(far_end.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0) return {};
  return Error::from_errno(errno, "reset a connection");
}

Result<void> RestoredInetSocket::take_address() {
  if (!record_.local) return {};
  const kernel::InetAddress address = record_.local->address();
  const kernel::InetSocketAddress local(address);
  std::optional<ScopedReuse> reuse;
  if (record_.tcp) reuse.emplace(fd.get());
  if (::bind(fd.get(), local.get(), local.length) != 0) return in_use(errno, address);
  if (record_.role != InetRole::kListening) return {};
  if (::listen(fd.get(), static_cast<int>(record_.backlog)) != 0) return in_use(errno, address);
  return {};
}

Result<void> RestoredInetSocket::bind(RestartContext& ctx) {
  if (replaced_) return {};
  const bool connection = record_.role == InetRole::kConnection || record_.role == InetRole::kReset;
  if (!connection) STASIS_TRY(take_address());
  return ctx.deferred.add([this, &ctx] { return fill(ctx); });
}

Result<void> RestoredInetSocket::send_again(const DatagramRecord& datagram, const ObjHash& objects) const {
  const auto* const sender =
      STASIS_TRY(fetch_restored<RestoredInetSocket>(objects, datagram.sender, kind::kInetSocket));
  if (sender->replaced_ || !record_.local) return {};
  kernel::InetAddress here = record_.local->address();
  if (here.is_any()) {
    here.bytes = {};
    if (here.v6 && sender->record_.v6) {
      here.bytes[15] = 1;
    } else {
      here.v6 = false;
      here.bytes = {127, 0, 0, 1};
    }
  }
  if (here.v6 != sender->record_.v6) here = here.unmapped();
  if (!here.v6 && sender->record_.v6) {
    const auto plain = here.bytes;
    here.v6 = true;
    here.bytes = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, plain[0], plain[1], plain[2], plain[3]};
  }
  const kernel::InetSocketAddress to(here);
  const ssize_t sent = ::sendto(sender->fd.get(), datagram.bytes.data(), datagram.bytes.size(),
                                MSG_DONTWAIT | MSG_NOSIGNAL, to.get(), to.length);
  // A network may lose datagrams.
  if (sent < 0) log::info("inet_socket", "a queued datagram is lost: errno {}", errno);
  return {};
}

Result<void> RestoredInetSocket::fill(RestartContext& ctx) {
  if (replaced_) return {};
  for (const DatagramRecord& datagram : record_.queue) STASIS_TRY(send_again(datagram, ctx.objects));
  // What is accepted has the options of the listening socket, which come when all queues are filled.
  if (record_.role == InetRole::kUnaccepted) return connect_in_turn(ctx, record_.turn + 2);
  return ctx.deferred.add([this] { return finish(); });
}

// The listening socket hands out connections in the order in which they came.
Result<void> RestoredInetSocket::connect_in_turn(RestartContext& ctx, std::uint32_t turn) {
  if (turn > 0) return ctx.deferred.add([this, &ctx, turn] { return connect_in_turn(ctx, turn - 1); });
  const kernel::InetAddress address = record_.remote->address();
  const kernel::InetSocketAddress to(address);
  const auto failed = [&](int code) {
    return Error::from_errno(code,
                             fmt::format("connect again to {}, where nobody had accepted yet", address.to_string()));
  };
  STASIS_TRY(set_status_flags(fd.get(), O_NONBLOCK));
  if (::connect(fd.get(), to.get(), to.length) != 0 && errno != EINPROGRESS) return failed(errno);
  constexpr int kPatienceMs = 10'000;  // it comes about within this machine
  pollfd connected{.fd = fd.get(), .events = POLLOUT, .revents = 0};
  if (::poll(&connected, 1, kPatienceMs) != 1) return failed(ETIMEDOUT);
  int code = 0;
  socklen_t length = sizeof code;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &code, &length) != 0 || code != 0) return failed(code);
  return ctx.deferred.add([this] { return finish(); });
}

Result<void> RestoredInetSocket::go_on() const {
  STASIS_TRY(kernel::leave_repair_with_probe(fd.get()));
  // Repair mode had its own idea of SO_REUSEADDR.
  STASIS_TRY(restore_socket_options(fd.get(), record_.options, OptionPhase::kBeforeBind));
  STASIS_TRY(kernel::send_unsent(fd.get(), *connection_));
  if (connection_->end_sent && ::shutdown(fd.get(), SHUT_WR) != 0) {
    return Error::from_errno(errno, "shut down a TCP connection");
  }
  return {};
}

Result<void> RestoredInetSocket::finish() {
  if (replaced_) return {};
  if (record_.role == InetRole::kConnected) {
    const kernel::InetAddress address = record_.remote->address();
    const kernel::InetSocketAddress to(address);
    if (::connect(fd.get(), to.get(), to.length) != 0)
      return Error::from_errno(errno, "connect to " + address.to_string());
  }
  for (const MulticastGroupRecord& group : record_.groups) STASIS_TRY(join(fd.get(), group));
  if (connection_) STASIS_TRY(go_on());
  STASIS_TRY(restore_socket_options(fd.get(), record_.options, OptionPhase::kAtTheEnd));
  return set_status_flags(fd.get(), record_.flags);
}

}  // namespace stasis
