// SPDX-License-Identifier: Apache-2.0
#include "resource/inet_socket/inet_socket.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "kernel/multicast.h"
#include "kernel/namespaces.h"
#include "kernel/socket_queue.h"
#include "resource/checkpoint_context.h"
#include "resource/inet_socket/unaccepted.h"

namespace stasis {
namespace {

constexpr int kCapNetAdmin = 12;

bool is_raw(const OpenFile& file) { return file.inet_socket->type == SOCK_RAW; }
bool is_tcp(const OpenFile& file) { return !is_raw(file) && file.inet_socket->protocol == IPPROTO_TCP; }
bool is_udp(const OpenFile& file) { return !is_raw(file) && file.inet_socket->protocol == IPPROTO_UDP; }
// The sockets of an unprivileged ping.
bool is_ping(const OpenFile& file) {
  return file.inet_socket->type == SOCK_DGRAM &&
         (file.inet_socket->protocol == IPPROTO_ICMP || file.inet_socket->protocol == IPPROTO_ICMPV6);
}

// Has TCP left the states in which a connection can be given up or kept as a whole?
bool is_connection(const OpenFile& file) {
  if (!is_tcp(file)) return false;
  const int state = file.inet_socket->state;
  return state != TCP_CLOSE && state != TCP_LISTEN;
}

bool can_be_saved(int state) {
  return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2;
}

std::optional<::tcp_info> info_of(const OpenFile& file) {
  ::tcp_info info{};
  socklen_t length = sizeof info;
  if (!file.held || ::getsockopt(file.held.get(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return std::nullopt;
  return info;
}

// Of a listening socket: connections that wait to be accepted, and how many may.
struct Waiting {
  std::uint32_t connections = 0;
  std::uint32_t backlog = 0;
};
Waiting waiting_at(const OpenFile& file) {
  const auto info = info_of(file);
  return info ? Waiting{info->tcpi_unacked, info->tcpi_sacked} : Waiting{};
}

std::string describe(const OpenFile& file) {
  const auto& socket = *file.inet_socket;
  return fmt::format("{} to {}", socket.local ? socket.local->to_string() : "?",
                     socket.remote ? socket.remote->to_string() : "?");
}

std::optional<Obstacle> connection_obstacle(const OpenFile& file, const OpenFileTable& tree, TcpPolicy policy) {
  const bool inside = find_inet_peer(file, tree) != nullptr;
  if (!inside && policy == TcpPolicy::kClose) return std::nullopt;
  if (const auto far_end = inside ? std::nullopt : find_unaccepted(file, tree)) {
    const std::string why = why_not_again(file, *far_end);
    if (why.empty()) return std::nullopt;
    return file.obstacle(Errc::kUnsupportedObject, fmt::format("{} ({})", why, describe(file)),
                         "try again when it is accepted, or --tcp close");
  }
  if (!inside && policy == TcpPolicy::kRefuse) {
    return file.obstacle(Errc::kExternalPeer,
                         fmt::format("a TCP connection leads out of the process tree ({})", describe(file)),
                         "--tcp close resets it at the restart, --tcp keep (root) takes it along");
  }
  const auto capable = kernel::has_capability(kCapNetAdmin);
  if (!capable || !*capable) {
    return file.obstacle(Errc::kMissingCapability,
                         fmt::format("saving a TCP connection ({}) takes CAP_NET_ADMIN", describe(file)),
                         inside ? "run as root" : "run as root, or --tcp close");
  }
  const int state = file.inet_socket->state;
  if (!can_be_saved(state) || (!inside && state != TCP_ESTABLISHED)) {
    return file.obstacle(Errc::kUnsupportedObject,
                         fmt::format("a TCP connection that is being opened or closed ({})", describe(file)),
                         "try again in a moment");
  }
  return std::nullopt;
}

}  // namespace

bool accepts(const kernel::InetAddress& bound, const kernel::InetAddress& to) {
  if (bound.port != to.port) return false;
  return bound.is_any() || bound.unmapped().bytes == to.unmapped().bytes;
}

OpenFile* find_inet_peer(const OpenFile& file, const OpenFileTable& tree) {
  if (!file.inet_socket || !file.inet_socket->remote || !file.inet_socket->local) return nullptr;
  const auto remote = file.inet_socket->remote->unmapped(), local = file.inet_socket->local->unmapped();
  for (const auto& other : tree.files) {
    if (other.get() == &file || !other->inet_socket || !other->inet_socket->local) continue;
    if (other->inet_socket->protocol != file.inet_socket->protocol || is_raw(*other) != is_raw(file)) continue;
    if (is_udp(file)) {
      if (accepts(*other->inet_socket->local, remote)) return other.get();
    } else if (is_connection(*other) && other->inet_socket->remote && other->inet_socket->local->unmapped() == remote &&
               other->inet_socket->remote->unmapped() == local) {
      return other.get();
    }
  }
  return nullptr;
}

OpenFile* find_udp_sender(const kernel::InetAddress& address, const OpenFileTable& tree) {
  const auto found = std::ranges::find_if(tree.files, [&](const auto& file) {
    return file->inet_socket && is_udp(*file) && file->inet_socket->local &&
           accepts(*file->inet_socket->local, address);
  });
  return found == tree.files.end() ? nullptr : found->get();
}

InetAddressRecord InetAddressRecord::of(const kernel::InetAddress& address) {
  return {.v6 = address.v6,
          .bytes = address.bytes,
          .port = address.port,
          .scope = address.scope,
          .text = address.to_string()};
}

bool claims_inet_socket(const OpenFile& file, const OpenFileTable&) {
  if (!file.inet_socket || !S_ISSOCK(file.stat.st_mode) || file.is_path_only()) return false;
  return (file.inet_socket->type == SOCK_STREAM && is_tcp(file)) ||
         (file.inet_socket->type == SOCK_DGRAM && is_udp(file)) || is_raw(file) || is_ping(file);
}

std::optional<Obstacle> inet_socket_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                             const CheckpointPolicy& policy) {
  if (is_raw(file) && file.inet_socket->protocol == IPPROTO_IGMP) {
    return file.obstacle(Errc::kUnsupportedObject, "a raw IGMP socket may route multicast, which can't be saved",
                         "close it, or end what uses it, first");
  }
  if (is_connection(file)) return connection_obstacle(file, tree, policy.tcp);
  if (!is_tcp(file) || file.inet_socket->state != TCP_LISTEN || policy.tcp == TcpPolicy::kClose) return std::nullopt;
  const Waiting waiting = waiting_at(file);
  if (waiting.connections == 0) return std::nullopt;
  const std::uint32_t outside = waiting_from_outside(file, waiting.connections, tree);
  if (outside == 0) return std::nullopt;
  return file.obstacle(Errc::kExternalPeer,
                       fmt::format("{} connections from outside to {} wait to be accepted", outside,
                                   file.inet_socket->local->to_string()),
                       "try again when they are accepted, or --tcp close");
}

namespace {

bool error_waits(const OpenFile& file) {
  pollfd poll{.fd = file.held.get(), .events = 0, .revents = 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & POLLERR) != 0;
}

// Datagrams that came from the tree; the number of others is noted. (To look would take away an error that waits.)
Result<void> save_datagrams(const OpenFile& file, void* context, InetSocketRecord& record) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  if (error_waits(file)) return {};
  const auto datagrams = STASIS_TRY(kernel::peek_datagrams(file.held.get()));
  for (const kernel::QueuedDatagram& datagram : datagrams) {
    OpenFile* const sender = datagram.sender ? find_udp_sender(*datagram.sender, ctx.files) : nullptr;
    // Another machine may use the same port: only what came from this one can be from the tree.
    const bool local =
        sender != nullptr && !(file.inet_socket->local && kernel::is_multicast(*file.inet_socket->local)) &&
        (datagram.sender->is_loopback() ||
         (file.inet_socket->local && accepts(*file.inet_socket->local, {.v6 = datagram.sender->v6,
                                                                        .bytes = datagram.sender->bytes,
                                                                        .port = file.inet_socket->local->port})));
    if (!local) {
      ++record.dropped;
      continue;
    }
    const ObjRef ref = STASIS_TRY(ctx.objects.checkpoint_obj(context, sender, kind::kInetSocket));
    record.queue.push_back({.bytes = datagram.bytes, .sender = ref});
  }
  if (record.dropped > 0) {
    log::info("inet_socket", "{}: {} datagrams from outside are dropped", file.link, record.dropped);
  }
  return {};
}

TcpConnectionRecord to_record(kernel::TcpConnection connection) {
  const kernel::TcpWindow& w = connection.window;
  return {.unread = std::move(connection.unread),
          .receive_sequence = connection.receive_sequence,
          .unacknowledged = std::move(connection.unacknowledged),
          .send_sequence = connection.send_sequence,
          .unsent = connection.unsent,
          .mss = connection.mss,
          .window_scaling = connection.window_scaling,
          .send_scale = connection.send_scale,
          .receive_scale = connection.receive_scale,
          .selective_acknowledgement = connection.selective_acknowledgement,
          .timestamp = connection.timestamp,
          .window = {w.snd_wl1, w.snd_wnd, w.max_window, w.rcv_wnd, w.rcv_wup},
          .end_sent = connection.end_sent,
          .end_received = connection.end_received};
}

// Where both ends are in the tree, the first of them that is saved reads both.
Result<kernel::TcpConnection> read_connection(OpenFile& file, OpenFile* peer) {
  if (file.tcp) return std::exchange(file.tcp, std::nullopt).value();
  if (!peer || !peer->held) return kernel::read_tcp_connection(file.held.get());
  auto both = STASIS_TRY(kernel::read_tcp_connections(file.held.get(), peer->held.get()));
  peer->tcp = std::move(both.second);
  return std::move(both.first);
}

Result<void> save_connection(OpenFile& file, CheckpointContext& ctx, InetSocketRecord& record) {
  OpenFile* const peer = find_inet_peer(file, ctx.files);
  const auto waits = peer == nullptr ? find_unaccepted(file, ctx.files) : std::nullopt;
  if (waits && why_not_again(file, *waits).empty()) {
    record.role = InetRole::kUnaccepted;
    record.turn = turn_of(file, ctx.files);
    return {};
  }
  if (peer == nullptr && ctx.policy.tcp == TcpPolicy::kClose) {
    record.role = InetRole::kReset;
    return {};
  }
  record.role = InetRole::kConnection;
  record.connection = to_record(STASIS_TRY(read_connection(file, peer)));
  return ctx.farewell.add([&file] { return kernel::enter_repair(file.held.get()); });
}

Result<void> save_groups(const OpenFile& file, InetSocketRecord& record) {
  for (const kernel::MulticastGroup& group : STASIS_TRY(kernel::joined_groups(file.held.get()))) {
    MulticastGroupRecord& saved = record.groups.emplace_back();
    saved.address = InetAddressRecord::of(group.address);
    saved.interface = group.interface_name;
    saved.include = group.include;
    for (const kernel::InetAddress& source : group.sources) saved.sources.push_back(InetAddressRecord::of(source));
  }
  return {};
}

// Everything that has no connections.
Result<void> save_datagram_socket(const OpenFile& file, void* context, InetSocketRecord& record) {
  record.role = file.inet_socket->remote ? InetRole::kConnected : InetRole::kSingle;
  STASIS_TRY(save_groups(file, record));
  if (is_udp(file)) return save_datagrams(file, context, record);
  record.raw = is_raw(file);
  record.protocol = static_cast<std::uint16_t>(file.inet_socket->protocol);
  return {};
}

}  // namespace

Result<void> checkpoint_inet_socket(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  OpenFile& file = *static_cast<OpenFile*>(object);
  const kernel::InetSocketState& socket = *file.inet_socket;
  InetSocketRecord record{.v6 = socket.domain == AF_INET6, .tcp = is_tcp(file), .flags = file.info.flags};
  if (socket.local && socket.local->port != 0) record.local = InetAddressRecord::of(*socket.local);
  if (socket.remote) record.remote = InetAddressRecord::of(*socket.remote);
  if (is_connection(file)) {
    STASIS_TRY(save_connection(file, ctx, record));
  } else if (record.tcp && socket.state == TCP_LISTEN) {
    record.role = InetRole::kListening;
    record.backlog = waiting_at(file).backlog;
  } else if (!record.tcp) {
    STASIS_TRY(save_datagram_socket(file, context, record));
  }
  record.options = STASIS_TRY(save_socket_options(file.held.get()));
  return ctx.write_object(ref, kind::kInetSocket, record);
}

}  // namespace stasis
