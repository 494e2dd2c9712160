// SPDX-License-Identifier: Apache-2.0
// IPv4 and IPv6 sockets: UDP, raw ones, and TCP that listens, is connected inside of the tree, or (by the user's
// choice) outside.
//
//   UDP              bound and connected again; unread datagrams that came from a socket of the tree are sent again by
//                    it, others are dropped, as the network may; multicast groups are joined again
//   raw, and ping    bound and connected again; what waits unread is dropped
//   TCP, listening   bound and listening again; connections that wait from outside are refused or dropped (--tcp close)
//   TCP, connected   taken out of the kernel and put back with its queues and sequence numbers (TCP_REPAIR, which takes
//                    CAP_NET_ADMIN), if both ends are in the tree, or with --tcp keep; with --tcp close the program
//                    finds its connection reset
//   TCP, unaccepted  a connection inside the tree that still waits to be accepted is made again, and waits; without
//                    bytes in it, which nobody could read (see unaccepted.h)
//
// With checkpoint --kill the connections end silently (they are put into repair mode before the program is killed), so
// that no other end is told. No firewall rule is used: with --tcp keep the other end must not send while the program
// does not run, or the kernel answers it with a reset.
//
// Order of a restart: at restore sockets are made (connections in repair mode); then, as deferred works, addresses and
// listen(2); queues and options; connections go on.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "kernel/inet_address.h"
#include "kernel/tcp_repair.h"
#include "resource/inet_socket/inet_peer.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/socket/socket_options.h"
#include "stasis/image_schema.h"

namespace stasis {

enum class InetRole : std::uint8_t {
  kSingle = 0,      // neither connected nor listening
  kListening = 1,   // TCP
  kConnected = 2,   // UDP
  kConnection = 3,  // TCP
  kReset = 4,       // TCP, a connection that is given up
  kUnaccepted = 5,  // TCP, a connection that waits at a listening socket of the tree
};
constexpr auto enum_names(InetRole) {
  return std::array{EnumName{InetRole::kSingle, "single"},       EnumName{InetRole::kListening, "listening"},
                    EnumName{InetRole::kConnected, "connected"}, EnumName{InetRole::kConnection, "connection"},
                    EnumName{InetRole::kReset, "reset"},         EnumName{InetRole::kUnaccepted, "unaccepted"}};
}

struct InetAddressRecord {
  bool v6 = false;
  std::array<std::uint8_t, 16> bytes{};
  std::uint16_t port = 0;
  std::uint32_t scope = 0;
  std::string text;  // for people

  static constexpr auto fields() {
    using R = InetAddressRecord;
    return std::tuple{field<1>("v6", &R::v6), field<2>("bytes", &R::bytes), field<3>("port", &R::port),
                      field<4>("scope", &R::scope), field<5>("text", &R::text, MaxLength{64})};
  }
  static InetAddressRecord of(const kernel::InetAddress& address);
  kernel::InetAddress address() const { return {.v6 = v6, .bytes = bytes, .port = port, .scope = scope}; }
};

struct DatagramRecord {
  std::vector<std::byte> bytes;
  ObjRef sender;

  static constexpr auto fields() {
    return std::tuple{field<1>("bytes", &DatagramRecord::bytes), field<2>("sender", &DatagramRecord::sender)};
  }
};

struct TcpConnectionRecord {
  std::vector<std::byte> unread;
  std::uint32_t receive_sequence = 0;
  std::vector<std::byte> unacknowledged;
  std::uint32_t send_sequence = 0;
  std::uint32_t unsent = 0;
  std::uint32_t mss = 0;
  bool window_scaling = false;
  std::uint8_t send_scale = 0;
  std::uint8_t receive_scale = 0;
  bool selective_acknowledgement = false;
  std::optional<std::uint32_t> timestamp;
  std::array<std::uint32_t, 5> window{};  // snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
  bool end_sent = false;
  bool end_received = false;

  static constexpr auto fields() {
    using R = TcpConnectionRecord;
    return std::tuple{field<1>("unread", &R::unread, MaxLength{1u << 28}),
                      field<2>("receive_sequence", &R::receive_sequence),
                      field<3>("unacknowledged", &R::unacknowledged, MaxLength{1u << 28}),
                      field<4>("send_sequence", &R::send_sequence),
                      field<5>("unsent", &R::unsent),
                      field<6>("mss", &R::mss),
                      field<7>("window_scaling", &R::window_scaling),
                      field<8>("send_scale", &R::send_scale),
                      field<9>("receive_scale", &R::receive_scale),
                      field<10>("selective_acknowledgement", &R::selective_acknowledgement),
                      field<11>("timestamp", &R::timestamp),
                      field<12>("window", &R::window),
                      field<13>("end_sent", &R::end_sent),
                      field<14>("end_received", &R::end_received)};
  }
};

struct MulticastGroupRecord {
  InetAddressRecord address;
  std::string interface;
  bool include = false;  // only what `sources` send is received; else all but that
  std::vector<InetAddressRecord> sources;

  static constexpr auto fields() {
    using R = MulticastGroupRecord;
    return std::tuple{field<1>("address", &R::address), field<2>("interface", &R::interface, MaxLength{64}),
                      field<3>("include", &R::include), field<4>("sources", &R::sources, MaxLength{8192})};
  }
};

struct InetSocketRecord {
  static constexpr RecordType kType = RecordType::kInetSocket;
  static constexpr std::string_view kName = "inet_socket";

  bool v6 = false;
  bool tcp = false;
  InetRole role = InetRole::kSingle;
  std::uint32_t flags = 0;
  std::optional<InetAddressRecord> local;
  std::optional<InetAddressRecord> remote;
  std::uint32_t backlog = 0;
  std::vector<DatagramRecord> queue;
  std::uint32_t dropped = 0;  // datagrams that were unread and are not saved
  std::optional<TcpConnectionRecord> connection;
  std::vector<SocketOptionRecord> options;
  std::vector<MulticastGroupRecord> groups;
  bool raw = false;
  std::uint16_t protocol = 0;  // 0: TCP or UDP
  std::uint32_t turn = 0;      // of an unaccepted connection: how many are older

  static constexpr auto fields() {
    using R = InetSocketRecord;
    return std::tuple{field<1>("v6", &R::v6),
                      field<2>("tcp", &R::tcp),
                      field<3>("role", &R::role),
                      field<4>("flags", &R::flags, Show::kOctal),
                      field<5>("local", &R::local),
                      field<6>("remote", &R::remote),
                      field<7>("backlog", &R::backlog),
                      field<8>("queue", &R::queue),
                      field<9>("dropped", &R::dropped),
                      field<10>("connection", &R::connection),
                      field<11>("options", &R::options, MaxLength{256}),
                      field<12>("groups", &R::groups, MaxLength{4096}),
                      field<13>("raw", &R::raw),
                      field<14>("protocol", &R::protocol),
                      field<15>("turn", &R::turn)};
  }
};

// Claims UDP, TCP, raw sockets, and those of ping.
bool claims_inet_socket(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> inet_socket_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                             const CheckpointPolicy& policy);
Result<void> checkpoint_inet_socket(void* context, ObjRef ref, void* object);
Result<void*> restore_inet_socket(void* context, ObjRef ref);

class RestoredInetSocket : public RestoredFile {
 public:
  explicit RestoredInetSocket(InetSocketRecord record) : record_(std::move(record)) {}
  Result<void> create(RestartContext& ctx);
  Result<void> bind(RestartContext& ctx);
  Result<void> fill(RestartContext& ctx);
  Result<void> finish();
  void replace(UniqueFd other) override;

 private:
  Result<void> make_connection();
  Result<void> make_reset();
  Result<void> take_address();
  Result<void> send_again(const DatagramRecord& datagram, const ObjHash& objects) const;
  Result<void> connect_in_turn(RestartContext& ctx, std::uint32_t turn);
  Result<void> go_on() const;

  InetSocketRecord record_;
  std::optional<kernel::TcpConnection> connection_;
  bool replaced_ = false;
};

inline constexpr FileKind kInetSocketKind = {.ops = {kind::kInetSocket, "inet_socket", nullptr, RestoredObject::drop,
                                                     checkpoint_inet_socket, restore_inet_socket},
                                             .claims = claims_inet_socket,
                                             .obstacle = inet_socket_obstacle};

}  // namespace stasis
