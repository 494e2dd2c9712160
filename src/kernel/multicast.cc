// SPDX-License-Identifier: Apache-2.0
#include "kernel/multicast.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <optional>

#include "base/file.h"
#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

constexpr std::size_t kMaxSources = 8192;

int level_of(const InetAddress& address) { return address.v6 ? IPPROTO_IPV6 : IPPROTO_IP; }

std::vector<std::byte> filter_buffer(const MulticastGroup& group, std::size_t sources) {
  std::vector<std::byte> buffer(GROUP_FILTER_SIZE(sources));
  group_filter head{};
  head.gf_interface = group.interface;
  head.gf_group = InetSocketAddress(group.address).storage;
  head.gf_fmode = MCAST_INCLUDE;
  head.gf_numsrc = static_cast<std::uint32_t>(sources);
  std::memcpy(buffer.data(), &head, GROUP_FILTER_SIZE(0));
  return buffer;
}

// Asks with room for so many sources; yields how many there are, or nothing if the socket is not in the group.
Result<std::optional<std::size_t>> ask(int fd, MulticastGroup& group, std::size_t room) {
  std::vector<std::byte> buffer = filter_buffer(group, room);
  auto length = static_cast<socklen_t>(buffer.size());
  if (::getsockopt(fd, level_of(group.address), MCAST_MSFILTER, buffer.data(), &length) != 0) {
    // An IPv4 socket knows nothing of IPv6.
    const bool absent = errno == EADDRNOTAVAIL || errno == ENOPROTOOPT || errno == EOPNOTSUPP || errno == EINVAL;
    if (absent) return std::optional<std::size_t>();
    return Error::from_errno(errno, "ask a socket for a multicast group");
  }
  group_filter head{};
  std::memcpy(&head, buffer.data(), GROUP_FILTER_SIZE(0));
  group.include = head.gf_fmode == MCAST_INCLUDE;
  for (std::size_t i = 0; i < std::min<std::size_t>(head.gf_numsrc, room); ++i) {
    sockaddr_storage source{};
    std::memcpy(&source, buffer.data() + GROUP_FILTER_SIZE(i), sizeof source);
    const auto address = to_inet_address(source, sizeof source);
    if (address) group.sources.push_back(*address);
  }
  return std::optional<std::size_t>(head.gf_numsrc);
}

Result<bool> is_joined(int fd, MulticastGroup& group) {
  const auto sources = STASIS_TRY(ask(fd, group, 0));
  if (!sources || *sources == 0) return sources.has_value();
  if (*sources > kMaxSources) return Error(Errc::kUnsupportedObject, "a multicast group has too many sources");
  return STASIS_TRY(ask(fd, group, *sources)).has_value();
}

struct SourceRequest {
  group_source_req request{};
  SourceRequest(std::uint32_t interface, const InetAddress& group, const InetAddress& source) {
    request.gsr_interface = interface;
    request.gsr_group = InetSocketAddress(group).storage;
    request.gsr_source = InetSocketAddress(source).storage;
  }
};

}  // namespace

bool is_multicast(const InetAddress& address) {
  const InetAddress plain = address.unmapped();
  return plain.v6 ? plain.bytes[0] == 0xff : plain.bytes[0] >> 4 == 0xe;
}

std::vector<MulticastGroup> parse_igmp(std::string_view text) {
  std::vector<MulticastGroup> groups;
  std::uint32_t number = 0;
  std::string name;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = text::take_line(rest);
    if (!line.starts_with('\t')) {
      // "4	eth0      :     1      V3"
      number = 0;
      text::number(text::take_word(line), number);
      name = std::string(text::take_word(line));
      if (name.ends_with(':')) name.pop_back();
      continue;
    }
    // "				010000E0     1 0:00000000		0": in the machine's order
    std::uint32_t address = 0;
    if (number == 0 || !text::number(text::take_word(line), address, 16)) continue;
    MulticastGroup group{.address = {}, .interface = number, .interface_name = name, .include = false, .sources = {}};
    std::memcpy(group.address.bytes.data(), &address, sizeof address);
    groups.push_back(std::move(group));
  }
  return groups;
}

std::vector<MulticastGroup> parse_igmp6(std::string_view text) {
  std::vector<MulticastGroup> groups;
  for (std::string_view rest = text; !rest.empty();) {
    // "1    lo              ff020000000000000000000000000001     1 0000000C 0"
    std::string_view line = text::take_line(rest);
    MulticastGroup group;
    if (!text::number(text::take_word(line), group.interface)) continue;
    group.interface_name = std::string(text::take_word(line));
    const std::string_view hex = text::take_word(line);
    group.address.v6 = true;
    bool good = hex.size() == 32;
    for (std::size_t i = 0; good && i < 16; ++i) {
      good = text::number(hex.substr(i * 2, 2), group.address.bytes[i], 16);
    }
    if (good) groups.push_back(std::move(group));
  }
  return groups;
}

Result<std::vector<MulticastGroup>> joined_groups(int fd) {
  std::vector<MulticastGroup> joined;
  // Without IPv6, or without an interface that can, there is no such file.
  const auto v4 = read_file(AT_FDCWD, "/proc/self/net/igmp");
  const auto v6 = read_file(AT_FDCWD, "/proc/self/net/igmp6");
  std::vector<MulticastGroup> all = v4 ? parse_igmp(*v4) : std::vector<MulticastGroup>();
  if (v6) std::ranges::move(parse_igmp6(*v6), std::back_inserter(all));
  for (MulticastGroup& group : all) {
    if (STASIS_TRY(is_joined(fd, group))) joined.push_back(std::move(group));
  }
  return joined;
}

Result<void> join_group(int fd, const MulticastGroup& group) {
  const std::uint32_t interface = ::if_nametoindex(group.interface_name.c_str());
  if (interface == 0) {
    return Error(Errc::kNotFound, fmt::format("there is no network interface {} here", group.interface_name));
  }
  const auto failed = [&] {
    return Error::from_errno(
        errno, fmt::format("join multicast group {} on {}", group.address.to_string(), group.interface_name));
  };
  const int level = level_of(group.address);
  if (!group.include) {
    group_req request{};
    request.gr_interface = interface;
    request.gr_group = InetSocketAddress(group.address).storage;
    if (::setsockopt(fd, level, MCAST_JOIN_GROUP, &request, sizeof request) != 0) return failed();
  }
  for (const InetAddress& source : group.sources) {
    const SourceRequest request(interface, group.address, source);
    const int call = group.include ? MCAST_JOIN_SOURCE_GROUP : MCAST_BLOCK_SOURCE;
    if (::setsockopt(fd, level, call, &request.request, sizeof request.request) != 0) return failed();
  }
  return {};
}

}  // namespace stasis::kernel
