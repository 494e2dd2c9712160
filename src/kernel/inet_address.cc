// SPDX-License-Identifier: Apache-2.0
#include "kernel/inet_address.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <netinet/tcp.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

constexpr std::array<std::uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

Result<int> option(int fd, int level, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, level, name, &value, &length) == 0) return value;
  return Error::from_errno(errno, "ask for the kind of a socket");
}

// "0100007F:1F90": words of 32 bits in the machine's order, and the port.
std::optional<InetAddress> parse_address(std::string_view text) {
  const auto colon = text.find(':');
  if (colon != 8 && colon != 32) return std::nullopt;
  InetAddress address{.v6 = colon == 32};
  for (std::size_t word = 0; word * 8 < colon; ++word) {
    std::uint32_t value = 0;
    if (!text::number(text.substr(word * 8, 8), value, 16)) return std::nullopt;
    std::memcpy(address.bytes.data() + word * 4, &value, sizeof value);
  }
  if (!text::number(text.substr(colon + 1), address.port, 16)) return std::nullopt;
  return address;
}

}  // namespace

bool InetAddress::is_any() const {
  return std::ranges::all_of(unmapped().bytes, [](std::uint8_t byte) { return byte == 0; });
}

bool InetAddress::is_loopback() const {
  const InetAddress plain = unmapped();
  if (!plain.v6) return plain.bytes[0] == 127;
  return std::ranges::all_of(plain.bytes.begin(), plain.bytes.end() - 1, [](std::uint8_t byte) { return byte == 0; }) &&
         plain.bytes[15] == 1;
}

InetAddress InetAddress::unmapped() const {
  if (!v6 || !std::equal(kMapped.begin(), kMapped.end(), bytes.begin())) return *this;
  InetAddress plain{.port = port};
  std::copy(bytes.begin() + kMapped.size(), bytes.end(), plain.bytes.begin());
  return plain;
}

std::string InetAddress::to_string() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(v6 ? AF_INET6 : AF_INET, bytes.data(), text.data(), text.size());
  return v6 ? fmt::format("[{}]:{}", text.data(), port) : fmt::format("{}:{}", text.data(), port);
}

InetSocketAddress::InetSocketAddress(const InetAddress& address) {
  if (address.v6) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(address.port);
    in6.sin6_scope_id = address.scope;
    std::memcpy(&in6.sin6_addr, address.bytes.data(), 16);
    std::memcpy(&storage, &in6, length = sizeof in6);
    return;
  }
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(address.port);
  std::memcpy(&in.sin_addr, address.bytes.data(), 4);
  std::memcpy(&storage, &in, length = sizeof in);
}

std::optional<InetAddress> to_inet_address(const sockaddr_storage& storage, socklen_t length) {
  InetAddress address;
  if (storage.ss_family == AF_INET && length >= sizeof(sockaddr_in)) {
    sockaddr_in in{};
    std::memcpy(&in, &storage, sizeof in);
    address.port = ntohs(in.sin_port);
    std::memcpy(address.bytes.data(), &in.sin_addr, 4);
    return address;
  }
  if (storage.ss_family != AF_INET6 || length < sizeof(sockaddr_in6)) return std::nullopt;
  sockaddr_in6 in6{};
  std::memcpy(&in6, &storage, sizeof in6);
  address.v6 = true;
  address.port = ntohs(in6.sin6_port);
  address.scope = in6.sin6_scope_id;
  std::memcpy(address.bytes.data(), &in6.sin6_addr, 16);
  return address;
}

Result<std::optional<InetSocketState>> inet_socket_state(int fd) {
  InetSocketState state;
  state.domain = STASIS_TRY(option(fd, SOL_SOCKET, SO_DOMAIN));
  if (state.domain != AF_INET && state.domain != AF_INET6) return std::optional<InetSocketState>();
  state.type = STASIS_TRY(option(fd, SOL_SOCKET, SO_TYPE));
  state.protocol = STASIS_TRY(option(fd, SOL_SOCKET, SO_PROTOCOL));
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return Error::from_errno(errno, "ask for the address of a socket");
  }
  state.local = to_inet_address(address, length);
  length = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    state.remote = to_inet_address(address, length);
  }
  if (state.type == SOCK_RAW && !state.remote) {
    // Connected to an address without a port, it says that it is not.
    struct ::stat file{};
    if (::fstat(fd, &file) != 0) return Error::from_errno(errno, "look at a socket");
    const auto found = STASIS_TRY(find_inet_socket(file.st_ino));
    if (found) state.remote = found->remote;
  }
  state.state = state.remote ? TCP_ESTABLISHED : TCP_CLOSE;
  if (state.type == SOCK_STREAM && state.protocol == IPPROTO_TCP) {
    tcp_info info{};
    length = sizeof info;
    if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
      return Error::from_errno(errno, "ask for the state of a TCP socket");
    }
    state.state = info.tcpi_state;
  }
  return std::optional(state);
}

std::optional<InetLine> parse_inet_line(std::string_view line) {
  // sl local rem st tx:rx tr:tm retrnsmt uid timeout inode ...
  InetLine parsed;
  text::take_word(line);
  parsed.socket.local = parse_address(text::take_word(line));
  parsed.socket.remote = parse_address(text::take_word(line));
  if (!parsed.socket.local || !parsed.socket.remote) return std::nullopt;
  if (!text::number(text::take_word(line), parsed.socket.state, 16)) return std::nullopt;
  for (int i = 0; i < 5; ++i) text::take_word(line);
  if (!text::number(text::take_word(line), parsed.inode, 10)) return std::nullopt;
  parsed.socket.domain = parsed.socket.local->v6 ? AF_INET6 : AF_INET;
  if (parsed.socket.remote->port == 0 && parsed.socket.state != TCP_ESTABLISHED) parsed.socket.remote.reset();
  return parsed;
}

namespace {

struct InetTable {
  std::string_view name;
  int type;
  int protocol;  // 0: the port of a line tells
};
constexpr std::array kTables = {InetTable{"tcp", SOCK_STREAM, IPPROTO_TCP},
                                InetTable{"tcp6", SOCK_STREAM, IPPROTO_TCP},
                                InetTable{"udp", SOCK_DGRAM, IPPROTO_UDP},
                                InetTable{"udp6", SOCK_DGRAM, IPPROTO_UDP},
                                InetTable{"raw", SOCK_RAW, 0},
                                InetTable{"raw6", SOCK_RAW, 0},
                                InetTable{"icmp", SOCK_DGRAM, IPPROTO_ICMP},
                                InetTable{"icmp6", SOCK_DGRAM, IPPROTO_ICMPV6}};

}  // namespace

Result<std::optional<InetSocketState>> find_inet_socket(std::uint64_t inode) {
  for (const InetTable& row : kTables) {
    const auto table = read_file(AT_FDCWD, fmt::format("/proc/self/net/{}", row.name));
    if (!table) continue;  // without IPv6 there is none
    for (std::string_view rest = *table; !rest.empty();) {
      const auto line = parse_inet_line(text::take_line(rest));
      if (!line || line->inode != inode) continue;
      InetSocketState found = line->socket;
      found.type = row.type;
      found.protocol = row.protocol != 0 ? row.protocol : found.local->port;
      return std::optional(found);
    }
  }
  return std::optional<InetSocketState>();
}

}  // namespace stasis::kernel
