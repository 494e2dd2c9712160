// SPDX-License-Identifier: Apache-2.0
// What the kernel tells about a packet socket by its inode number (man 7 packet, sock_diag; net/packet/diag.c).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

// An entry of PACKET_ADD_MEMBERSHIP.
struct PacketMembership {
  std::uint32_t interface = 0;  // by number
  std::uint32_t count = 0;      // how many times it was added
  std::uint16_t type = 0;       // PACKET_MR_*
  std::vector<std::byte> address;
};

struct PacketSocketState {
  int type = 0;                      // SOCK_RAW, SOCK_DGRAM, or the old SOCK_PACKET
  std::uint16_t protocol = 0;        // ETH_P_*; 0: it receives nothing
  std::uint32_t interface = 0;       // that it is bound to, by number; 0: all; kGone: it was removed
  bool running = false;              // false: it has no protocol, or its interface is down
  std::uint32_t copy_threshold = 0;  // PACKET_COPY_THRESH
  std::vector<PacketMembership> memberships;
  bool ring = false;  // PACKET_RX_RING or PACKET_TX_RING
  bool fanout = false;
  std::uint32_t unread = 0;  // bytes of memory that waiting packets take
  static constexpr std::uint32_t kGone = ~0u;
};

// nullopt: no packet socket of this network namespace has that inode. Without CONFIG_PACKET_DIAG: kKernelFeature.
Result<std::optional<PacketSocketState>> packet_socket_state(std::uint64_t inode);

}  // namespace stasis::kernel
