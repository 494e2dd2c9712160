// SPDX-License-Identifier: Apache-2.0
// Netlink sockets (man 7 netlink) of the families that keep nothing in the kernel for a socket but its name, its groups
// and its options: questions and events about routes, sockets and devices (udev). They are made again under the same
// port number. What waits unread can't be put back, so a socket with unread messages, or in the middle of an answer, is
// refused; both last but a moment.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/socket/socket_options.h"
#include "stasis/image_schema.h"

namespace stasis {

struct NetlinkSocketRecord {
  static constexpr RecordType kType = RecordType::kNetlink;
  static constexpr std::string_view kName = "netlink_socket";

  std::uint32_t flags = 0;
  std::uint32_t type = 0;      // SOCK_RAW or SOCK_DGRAM, which are the same to the kernel
  std::uint32_t protocol = 0;  // NETLINK_ROUTE...
  bool bound = false;
  std::uint32_t port = 0;
  std::vector<std::uint32_t> groups;  // numbers, from 1
  std::uint32_t peer_port = 0;        // connected to; 0: the kernel, as without connect(2)
  std::uint32_t peer_groups = 0;
  std::vector<SocketOptionRecord> options;

  static constexpr auto fields() {
    using R = NetlinkSocketRecord;
    return std::tuple{field<1>("flags", &R::flags, Show::kOctal),
                      field<2>("type", &R::type),
                      field<3>("protocol", &R::protocol),
                      field<4>("bound", &R::bound),
                      field<5>("port", &R::port),
                      field<6>("groups", &R::groups, MaxLength{65536}),
                      field<7>("peer_port", &R::peer_port),
                      field<8>("peer_groups", &R::peer_groups, Show::kHex),
                      field<9>("options", &R::options, MaxLength{256})};
  }
};

// A line of /proc/net/netlink.
struct NetlinkLine {
  int protocol = -1;
  std::uint32_t unread = 0;  // bytes of memory
  bool answering = false;    // in the middle of an answer of many parts (NLM_F_DUMP)
  std::uint64_t inode = 0;
};
// Nothing: a heading, or a line that is malformed.
std::optional<NetlinkLine> parse_netlink_line(std::string_view line);

bool claims_netlink_socket(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> netlink_socket_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                                const CheckpointPolicy& policy);
Result<void> checkpoint_netlink_socket(void* context, ObjRef ref, void* object);
Result<void*> restore_netlink_socket(void* context, ObjRef ref);

inline constexpr FileKind kNetlinkSocketKind = {.ops = {kind::kNetlink, "netlink_socket", nullptr, RestoredObject::drop,
                                                        checkpoint_netlink_socket, restore_netlink_socket},
                                                .claims = claims_netlink_socket,
                                                .obstacle = netlink_socket_obstacle};

}  // namespace stasis
