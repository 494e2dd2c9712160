// SPDX-License-Identifier: Apache-2.0
// Packet sockets (man 7 packet): what takes packets off an interface before any protocol does, as dhclient and tcpdump
// have it. One is made again with its protocol, the interface of that name, options, filter, and memberships
// (multicast, promiscuous). Packets that wait unread are dropped, as the network may; the counters of PACKET_STATISTICS
// begin anew. One with a ring that it shares with the kernel, or in a fanout group, is refused.
//
// Saving and making one takes CAP_NET_RAW.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/socket/socket_options.h"
#include "stasis/image_schema.h"

namespace stasis {

// An entry of PACKET_ADD_MEMBERSHIP.
struct PacketMembershipRecord {
  std::string interface;
  std::uint32_t count = 0;  // how many times it was added
  std::uint32_t type = 0;   // PACKET_MR_*
  std::vector<std::byte> address;

  static constexpr auto fields() {
    using R = PacketMembershipRecord;
    return std::tuple{field<1>("interface", &R::interface, MaxLength{64}), field<2>("count", &R::count),
                      field<3>("type", &R::type), field<4>("address", &R::address, MaxLength{32})};
  }
};

struct PacketSocketRecord {
  static constexpr RecordType kType = RecordType::kPacket;
  static constexpr std::string_view kName = "packet_socket";

  std::uint32_t flags = 0;
  std::uint32_t type = 0;      // SOCK_RAW or SOCK_DGRAM
  std::uint16_t protocol = 0;  // ETH_P_*; 0: it receives nothing
  std::string interface;       // empty: all
  bool running = false;        // false: it has no protocol, or its interface was down
  std::uint32_t copy_threshold = 0;
  std::uint32_t dropped_bytes = 0;  // memory of packets that were unread and are not saved
  std::vector<PacketMembershipRecord> memberships;
  std::vector<SocketOptionRecord> options;

  static constexpr auto fields() {
    using R = PacketSocketRecord;
    return std::tuple{field<1>("flags", &R::flags, Show::kOctal),
                      field<2>("type", &R::type),
                      field<3>("protocol", &R::protocol, Show::kHex),
                      field<4>("interface", &R::interface, MaxLength{64}),
                      field<5>("running", &R::running),
                      field<6>("copy_threshold", &R::copy_threshold),
                      field<7>("dropped_bytes", &R::dropped_bytes),
                      field<8>("memberships", &R::memberships, MaxLength{4096}),
                      field<9>("options", &R::options, MaxLength{256})};
  }
};

bool claims_packet_socket(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> packet_socket_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                               const CheckpointPolicy& policy);
Result<void> checkpoint_packet_socket(void* context, ObjRef ref, void* object);
Result<void*> restore_packet_socket(void* context, ObjRef ref);

inline constexpr FileKind kPacketSocketKind = {.ops = {kind::kPacket, "packet_socket", nullptr, RestoredObject::drop,
                                                       checkpoint_packet_socket, restore_packet_socket},
                                               .claims = claims_packet_socket,
                                               .obstacle = packet_socket_obstacle};

}  // namespace stasis
