// SPDX-License-Identifier: Apache-2.0
// Multicast groups that a socket has joined (man 7 ip, ipv6). No call lists them: every group that an interface listens
// to (/proc/self/net/igmp, igmp6) is asked for, and the socket says whether it is one of its own (MCAST_MSFILTER).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/inet_address.h"
#include "stasis/result.h"

namespace stasis::kernel {

// 224.0.0.0/4, ff00::/8, and the former in an IPv6 address.
bool is_multicast(const InetAddress& address);

struct MulticastGroup {
  InetAddress address;
  std::uint32_t interface = 0;  // its number
  std::string interface_name;
  bool include = false;              // only what `sources` send; else all but that
  std::vector<InetAddress> sources;  // ports are 0
};

// Groups of interfaces, without sources. Pure; lines that are not understood are passed over.
std::vector<MulticastGroup> parse_igmp(std::string_view text);
std::vector<MulticastGroup> parse_igmp6(std::string_view text);

// REQUIRES: the socket is of our network namespace, and not a stream.
Result<std::vector<MulticastGroup>> joined_groups(int fd);
// The interface is found by its name. Not there: kNotFound.
Result<void> join_group(int fd, const MulticastGroup& group);

}  // namespace stasis::kernel
