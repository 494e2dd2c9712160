// SPDX-License-Identifier: Apache-2.0
// IPv4 and IPv6 addresses with their ports, as values (man 7 ip, ipv6).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "stasis/result.h"

namespace stasis::kernel {

struct InetAddress {
  bool v6 = false;
  std::array<std::uint8_t, 16> bytes{};  // network order; 4 of them for IPv4
  std::uint16_t port = 0;
  std::uint32_t scope = 0;  // interface of a link-local IPv6 address

  bool operator==(const InetAddress&) const = default;
  bool is_any() const;
  // 127.0.0.0/8, ::1, and the former in an IPv6 address.
  bool is_loopback() const;
  // "127.0.0.1:80", "[::1]:80"
  std::string to_string() const;
  // The same with a v4-mapped IPv6 address as IPv4.
  InetAddress unmapped() const;
};

struct InetSocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  explicit InetSocketAddress(const InetAddress& address);
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// Nothing for another family, or an address that is cut.
std::optional<InetAddress> to_inet_address(const sockaddr_storage& storage, socklen_t length);

// What an IPv4 or IPv6 socket is.
struct InetSocketState {
  int domain = 0;                     // AF_INET, AF_INET6
  int type = 0;                       // SOCK_STREAM, SOCK_DGRAM
  int protocol = 0;                   // IPPROTO_TCP, ...
  int state = 0;                      // TCP_ESTABLISHED (1), ...; of UDP: 1 connected, 7 not
  std::optional<InetAddress> local;   // port 0: not bound
  std::optional<InetAddress> remote;  // connected to
};
// By asking a descriptor of ours. Nothing: not an inet socket.
Result<std::optional<InetSocketState>> inet_socket_state(int fd);
// By inode number, from /proc/self/net (of TCP and UDP sockets of our network namespace).
Result<std::optional<InetSocketState>> find_inet_socket(std::uint64_t inode);
// A line of /proc/net/{tcp,tcp6,udp,udp6}; nothing for a heading or a line that is malformed.
struct InetLine {
  InetSocketState socket;
  std::uint64_t inode = 0;
};
std::optional<InetLine> parse_inet_line(std::string_view line);

}  // namespace stasis::kernel
