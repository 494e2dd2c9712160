// SPDX-License-Identifier: Apache-2.0
#include "resource/socket/socket_options.h"

#include <fmt/core.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>

#include "base/log.h"
#include "base/unique_fd.h"

namespace stasis {
namespace {

struct OptionRow {
  int level;
  int name;
  std::string_view label;
  OptionPhase phase = OptionPhase::kAtTheEnd;
};

constexpr int kUdpLevel = IPPROTO_UDP;
constexpr int kBufLock = 72;           // SO_BUF_LOCK, Linux 5.14
constexpr int kPacketHeaderSize = 24;  // PACKET_VNET_HDR_SZ, Linux 6.4
constexpr auto kEarly = OptionPhase::kBeforeBind;

// Numbers without a name are newer than the C library's headers (include/uapi/asm-generic/socket.h, linux/in.h,
// linux/tcp.h).
constexpr std::array kOptions = {
    OptionRow{SOL_SOCKET, SO_SNDBUF, "SO_SNDBUF"},
    OptionRow{SOL_SOCKET, SO_RCVBUF, "SO_RCVBUF"},
    OptionRow{SOL_SOCKET, SO_RCVLOWAT, "SO_RCVLOWAT"},
    OptionRow{SOL_SOCKET, SO_RCVTIMEO, "SO_RCVTIMEO"},
    OptionRow{SOL_SOCKET, SO_SNDTIMEO, "SO_SNDTIMEO"},
    OptionRow{SOL_SOCKET, SO_LINGER, "SO_LINGER"},
    OptionRow{SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE"},
    OptionRow{SOL_SOCKET, SO_PASSCRED, "SO_PASSCRED"},
    OptionRow{SOL_SOCKET, SO_PASSSEC, "SO_PASSSEC"},
    OptionRow{SOL_SOCKET, 76, "SO_PASSPIDFD"},
    OptionRow{SOL_SOCKET, 83, "SO_PASSRIGHTS"},
    OptionRow{SOL_SOCKET, SO_PEEK_OFF, "SO_PEEK_OFF"},
    OptionRow{SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR", kEarly},
    OptionRow{SOL_SOCKET, SO_REUSEPORT, "SO_REUSEPORT", kEarly},
    OptionRow{SOL_SOCKET, SO_BINDTODEVICE, "SO_BINDTODEVICE", kEarly},
    OptionRow{SOL_SOCKET, SO_BROADCAST, "SO_BROADCAST", kEarly},
    OptionRow{SOL_SOCKET, SO_OOBINLINE, "SO_OOBINLINE"},
    OptionRow{SOL_SOCKET, SO_PRIORITY, "SO_PRIORITY"},
    OptionRow{SOL_SOCKET, SO_MARK, "SO_MARK"},
    OptionRow{SOL_SOCKET, SO_DONTROUTE, "SO_DONTROUTE"},
    OptionRow{SOL_SOCKET, SO_TIMESTAMP, "SO_TIMESTAMP"},
    OptionRow{SOL_SOCKET, SO_TIMESTAMPNS, "SO_TIMESTAMPNS"},
    OptionRow{SOL_SOCKET, SO_TIMESTAMPING, "SO_TIMESTAMPING"},
    OptionRow{SOL_SOCKET, SO_RXQ_OVFL, "SO_RXQ_OVFL"},
    OptionRow{SOL_SOCKET, SO_NO_CHECK, "SO_NO_CHECK"},
    OptionRow{SOL_SOCKET, SO_BUSY_POLL, "SO_BUSY_POLL"},
    OptionRow{SOL_SOCKET, SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE"},
    OptionRow{SOL_SOCKET, SO_ZEROCOPY, "SO_ZEROCOPY"},
    OptionRow{SOL_SOCKET, SO_TXTIME, "SO_TXTIME"},
    OptionRow{SOL_SOCKET, SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE"},
    OptionRow{SOL_SOCKET, kBufLock, "SO_BUF_LOCK"},
    OptionRow{SOL_SOCKET, SO_LOCK_FILTER, "SO_LOCK_FILTER"},
    OptionRow{SOL_SOCKET, 75, "SO_RCVMARK"},
    OptionRow{SOL_SOCKET, 82, "SO_RCVPRIORITY"},
    OptionRow{IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY", kEarly},
    OptionRow{IPPROTO_IP, IP_TRANSPARENT, "IP_TRANSPARENT", kEarly},
    OptionRow{IPPROTO_IP, IP_FREEBIND, "IP_FREEBIND", kEarly},
    OptionRow{IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, "IP_BIND_ADDRESS_NO_PORT"},
    OptionRow{IPPROTO_IP, IP_TOS, "IP_TOS"},
    OptionRow{IPPROTO_IP, IP_TTL, "IP_TTL"},
    OptionRow{IPPROTO_IP, IP_MINTTL, "IP_MINTTL"},
    OptionRow{IPPROTO_IP, IP_MTU_DISCOVER, "IP_MTU_DISCOVER"},
    OptionRow{IPPROTO_IP, IP_RECVERR, "IP_RECVERR"},
    OptionRow{IPPROTO_IP, IP_RECVTOS, "IP_RECVTOS"},
    OptionRow{IPPROTO_IP, IP_RECVTTL, "IP_RECVTTL"},
    OptionRow{IPPROTO_IP, IP_RECVOPTS, "IP_RECVOPTS"},
    OptionRow{IPPROTO_IP, IP_PKTINFO, "IP_PKTINFO"},
    OptionRow{IPPROTO_IP, IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR"},
    OptionRow{IPPROTO_IP, IP_CHECKSUM, "IP_CHECKSUM"},
    OptionRow{IPPROTO_IP, IP_NODEFRAG, "IP_NODEFRAG"},
    OptionRow{IPPROTO_IP, IP_UNICAST_IF, "IP_UNICAST_IF"},
    OptionRow{IPPROTO_IP, IP_HDRINCL, "IP_HDRINCL"},
    OptionRow{IPPROTO_IP, IP_MULTICAST_IF, "IP_MULTICAST_IF"},
    OptionRow{IPPROTO_IP, IP_MULTICAST_TTL, "IP_MULTICAST_TTL"},
    OptionRow{IPPROTO_IP, IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP"},
    OptionRow{IPPROTO_IP, IP_MULTICAST_ALL, "IP_MULTICAST_ALL"},
    OptionRow{IPPROTO_IPV6, IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"},
    OptionRow{IPPROTO_IPV6, IPV6_HDRINCL, "IPV6_HDRINCL"},
    OptionRow{IPPROTO_IPV6, IPV6_CHECKSUM, "IPV6_CHECKSUM"},
    OptionRow{IPPROTO_IPV6, IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF"},
    OptionRow{IPPROTO_IPV6, IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS"},
    OptionRow{IPPROTO_IPV6, IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP"},
    OptionRow{IPPROTO_IPV6, IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"},
    OptionRow{IPPROTO_IPV6, IPV6_RECVERR, "IPV6_RECVERR"},
    OptionRow{IPPROTO_IPV6, IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO"},
    OptionRow{IPPROTO_IPV6, IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT"},
    OptionRow{IPPROTO_IPV6, IPV6_RECVTCLASS, "IPV6_RECVTCLASS"},
    OptionRow{IPPROTO_IPV6, IPV6_TCLASS, "IPV6_TCLASS"},
    OptionRow{IPPROTO_IPV6, IPV6_DONTFRAG, "IPV6_DONTFRAG"},
    OptionRow{IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY"},
    OptionRow{IPPROTO_TCP, TCP_CORK, "TCP_CORK"},
    OptionRow{IPPROTO_TCP, TCP_KEEPIDLE, "TCP_KEEPIDLE"},
    OptionRow{IPPROTO_TCP, TCP_KEEPINTVL, "TCP_KEEPINTVL"},
    OptionRow{IPPROTO_TCP, TCP_KEEPCNT, "TCP_KEEPCNT"},
    OptionRow{IPPROTO_TCP, TCP_SYNCNT, "TCP_SYNCNT"},
    OptionRow{IPPROTO_TCP, TCP_LINGER2, "TCP_LINGER2"},
    OptionRow{IPPROTO_TCP, TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"},
    OptionRow{IPPROTO_TCP, TCP_CONGESTION, "TCP_CONGESTION", kEarly},
    OptionRow{IPPROTO_TCP, TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"},
    OptionRow{IPPROTO_TCP, TCP_FASTOPEN, "TCP_FASTOPEN"},
    OptionRow{IPPROTO_TCP, TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT"},
    OptionRow{IPPROTO_TCP, TCP_SAVE_SYN, "TCP_SAVE_SYN"},
    OptionRow{IPPROTO_TCP, TCP_INQ, "TCP_INQ"},
    OptionRow{SOL_RAW, 1, "ICMP_FILTER"},
    OptionRow{IPPROTO_ICMPV6, 1, "ICMPV6_FILTER"},
    OptionRow{SOL_NETLINK, NETLINK_PKTINFO, "NETLINK_PKTINFO"},
    OptionRow{SOL_NETLINK, NETLINK_BROADCAST_ERROR, "NETLINK_BROADCAST_ERROR"},
    OptionRow{SOL_NETLINK, NETLINK_NO_ENOBUFS, "NETLINK_NO_ENOBUFS"},
    OptionRow{SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, "NETLINK_LISTEN_ALL_NSID"},
    OptionRow{SOL_NETLINK, NETLINK_CAP_ACK, "NETLINK_CAP_ACK"},
    OptionRow{SOL_NETLINK, NETLINK_EXT_ACK, "NETLINK_EXT_ACK"},
    OptionRow{SOL_NETLINK, NETLINK_GET_STRICT_CHK, "NETLINK_GET_STRICT_CHK"},
    OptionRow{SOL_PACKET, PACKET_AUXDATA, "PACKET_AUXDATA"},
    OptionRow{SOL_PACKET, PACKET_ORIGDEV, "PACKET_ORIGDEV"},
    OptionRow{SOL_PACKET, PACKET_VERSION, "PACKET_VERSION"},
    OptionRow{SOL_PACKET, PACKET_RESERVE, "PACKET_RESERVE"},
    OptionRow{SOL_PACKET, PACKET_LOSS, "PACKET_LOSS"},
    OptionRow{SOL_PACKET, PACKET_VNET_HDR, "PACKET_VNET_HDR"},
    OptionRow{SOL_PACKET, kPacketHeaderSize, "PACKET_VNET_HDR_SZ"},
    OptionRow{SOL_PACKET, PACKET_TIMESTAMP, "PACKET_TIMESTAMP"},
    OptionRow{SOL_PACKET, PACKET_TX_HAS_OFF, "PACKET_TX_HAS_OFF"},
    OptionRow{SOL_PACKET, PACKET_QDISC_BYPASS, "PACKET_QDISC_BYPASS"},
    OptionRow{SOL_PACKET, PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING"},
    OptionRow{kUdpLevel, 1, "UDP_CORK"},
    OptionRow{kUdpLevel, 101, "UDP_NO_CHECK6_TX"},
    OptionRow{kUdpLevel, 102, "UDP_NO_CHECK6_RX"},
    OptionRow{kUdpLevel, 103, "UDP_SEGMENT"},
    OptionRow{kUdpLevel, 104, "UDP_GRO"},
};

bool is_buffer(const OptionRow& row) {
  return row.level == SOL_SOCKET && (row.name == SO_SNDBUF || row.name == SO_RCVBUF || row.name == kBufLock);
}

bool is_multicast(const OptionRow& row) {
  if (row.level == IPPROTO_IP) {
    return row.name == IP_MULTICAST_TTL || row.name == IP_MULTICAST_LOOP || row.name == IP_MULTICAST_ALL ||
           row.name == IP_MULTICAST_IF;
  }
  return row.level == IPPROTO_IPV6 &&
         (row.name == IPV6_MULTICAST_HOPS || row.name == IPV6_MULTICAST_LOOP || row.name == IPV6_MULTICAST_IF);
}

const OptionRow* find_row(int level, int name) {
  const auto row =
      std::ranges::find_if(kOptions, [&](const OptionRow& r) { return r.level == level && r.name == name; });
  return row == kOptions.end() ? nullptr : &*row;
}

// Nothing: this socket has no such option.
std::optional<std::vector<std::byte>> get(int fd, int level, int name) {
  std::vector<std::byte> value(64);
  auto length = static_cast<socklen_t>(value.size());
  if (::getsockopt(fd, level, name, value.data(), &length) != 0) return std::nullopt;
  value.resize(length);
  return value;
}

Result<int> number_of(int fd, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0) return value;
  return Error::from_errno(errno, "ask for the kind of a socket");
}

// The classic filter of SO_ATTACH_FILTER.
Result<void> save_filter(int fd, std::vector<SocketOptionRecord>& saved) {
  socklen_t count = 0;  // in instructions
  if (::getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &count) != 0) {
    if (errno == EACCES) return Error(Errc::kUnsupportedObject, "an eBPF filter is attached to it");
    return Error::from_errno(errno, "ask for the filter of a socket");
  }
  if (count == 0) return {};
  std::vector<std::byte> filter(count * sizeof(sock_filter));
  if (::getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, filter.data(), &count) != 0) {
    return Error::from_errno(errno, "read the filter of a socket");
  }
  saved.push_back({SOL_SOCKET, SO_ATTACH_FILTER, "SO_ATTACH_FILTER", std::move(filter)});
  return {};
}

Result<void> attach_filter(int fd, std::span<const std::byte> value) {
  if (value.empty() || value.size() % sizeof(sock_filter) != 0 || value.size() / sizeof(sock_filter) > BPF_MAXINSNS) {
    return Error(Errc::kBadImage, "the filter of a socket is malformed");
  }
  std::vector<sock_filter> code(value.size() / sizeof(sock_filter));
  std::memcpy(code.data(), value.data(), value.size());
  const sock_fprog program{.len = static_cast<unsigned short>(code.size()), .filter = code.data()};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0) return {};
  return Error::from_errno(errno, "attach the filter of a socket");
}

int int_of(std::span<const std::byte> value) {
  int number = 0;
  std::memcpy(&number, value.data(), std::min(value.size(), sizeof number));
  return number;
}

// The kernel doubles what it is given.
void set_buffer(int fd, int name, int doubled) {
  const int half = doubled / 2;
  ::setsockopt(fd, SOL_SOCKET, name, &half, sizeof half);
  if (const auto now = get(fd, SOL_SOCKET, name); now && int_of(*now) >= doubled) return;
  ::setsockopt(fd, SOL_SOCKET, name == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE, &half, sizeof half);
  if (const auto now = get(fd, SOL_SOCKET, name); !now || int_of(*now) < doubled) {
    log::info("socket", "a buffer of {} bytes could not be had: net.core.wmem_max, rmem_max", doubled);
  }
}

Result<void> set(int fd, const SocketOptionRecord& option) {
  if (option.level == SOL_SOCKET && (option.name == SO_SNDBUF || option.name == SO_RCVBUF)) {
    set_buffer(fd, option.name, int_of(option.value));
    return {};
  }
  if (const auto now = get(fd, option.level, option.name); now && *now == option.value) return {};
  if (::setsockopt(fd, option.level, option.name, option.value.data(), static_cast<socklen_t>(option.value.size())) ==
      0) {
    return {};
  }
  return Error::from_errno(errno, fmt::format("set option {} of a socket", find_row(option.level, option.name)->label));
}

}  // namespace

Result<std::vector<SocketOptionRecord>> save_socket_options(int fd) {
  const int domain = STASIS_TRY(number_of(fd, SO_DOMAIN));
  const int type = STASIS_TRY(number_of(fd, SO_TYPE));
  const int protocol = STASIS_TRY(number_of(fd, SO_PROTOCOL));
  const UniqueFd fresh(::socket(domain, type | SOCK_CLOEXEC, protocol));
  if (!fresh) return Error::from_errno(errno, "make a socket of the same kind");
  std::vector<SocketOptionRecord> saved;
  for (const OptionRow& row : kOptions) {
    if (row.level != SOL_SOCKET && domain == AF_UNIX) continue;
    if ((row.level == SOL_PACKET) != (domain == AF_PACKET) && row.level != SOL_SOCKET) continue;
    if (row.level == IPPROTO_TCP && protocol != IPPROTO_TCP) continue;
    if (row.level == kUdpLevel && protocol != IPPROTO_UDP) continue;
    // A connection tells of multicast what it was born with, and refuses to be told so.
    if (is_multicast(row) && type == SOCK_STREAM) continue;
    auto value = get(fd, row.level, row.name);
    if (!value) continue;
    const bool always = protocol == IPPROTO_TCP && is_buffer(row);
    if (!always && value == get(fresh.get(), row.level, row.name)) continue;
    saved.push_back({row.level, row.name, std::string(row.label), *std::move(value)});
  }
  STASIS_TRY(save_filter(fd, saved));
  // Once it is locked no filter can be attached.
  const auto is_lock = [](const SocketOptionRecord& o) { return o.level == SOL_SOCKET && o.name == SO_LOCK_FILTER; };
  std::ranges::stable_partition(saved, std::not_fn(is_lock));
  return saved;
}

Result<void> restore_socket_options(int fd, std::span<const SocketOptionRecord> options, OptionPhase phase) {
  for (const SocketOptionRecord& option : options) {
    if (option.level == SOL_SOCKET && option.name == SO_ATTACH_FILTER) {
      if (phase == OptionPhase::kAtTheEnd) STASIS_TRY(attach_filter(fd, option.value));
      continue;
    }
    const OptionRow* const row = find_row(option.level, option.name);
    if (row == nullptr || option.value.size() > 64) {
      return Error(Errc::kBadImage, fmt::format("socket option {} of level {}", option.name, option.level));
    }
    if (row->phase == phase || (phase == OptionPhase::kBuffers && is_buffer(*row))) STASIS_TRY(set(fd, option));
  }
  return {};
}

LargeSendBuffer::LargeSendBuffer(int fd, std::size_t bytes) : fd_(fd) {
  const auto size = get(fd, SOL_SOCKET, SO_SNDBUF);
  const auto lock = get(fd, SOL_SOCKET, kBufLock);
  size_ = size ? int_of(*size) : 0;
  lock_ = lock ? int_of(*lock) : 0;
  // Every piece of a queue costs more than its bytes.
  const int half = static_cast<int>(std::min<std::size_t>(bytes, std::size_t{256} << 20)) * 2 + 65536;
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &half, sizeof half) == 0) return;
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &half, sizeof half);
}

LargeSendBuffer::~LargeSendBuffer() {
  const int half = size_ / 2;
  if (::setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &half, sizeof half) != 0) {
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &half, sizeof half);
  }
  ::setsockopt(fd_, SOL_SOCKET, kBufLock, &lock_, sizeof lock_);
}

}  // namespace stasis
