// SPDX-License-Identifier: Apache-2.0
#include "resource/netlink_socket/netlink_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/file.h"
#include "kernel/proc_text.h"
#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

struct Family {
  int protocol;
  std::string_view name;
  bool numbered_groups;  // the same on every system
};
constexpr std::array kFamilies = {
    Family{NETLINK_ROUTE, "NETLINK_ROUTE", true}, Family{NETLINK_SOCK_DIAG, "NETLINK_SOCK_DIAG", true},
    Family{NETLINK_KOBJECT_UEVENT, "NETLINK_KOBJECT_UEVENT", true}, Family{NETLINK_GENERIC, "NETLINK_GENERIC", false}};

const Family* find_family(int protocol) {
  const auto found = std::ranges::find(kFamilies, protocol, &Family::protocol);
  return found == kFamilies.end() ? nullptr : &*found;
}

std::optional<NetlinkLine> find_line(std::uint64_t inode) {
  const auto table = read_file(AT_FDCWD, "/proc/self/net/netlink");
  if (!table) return std::nullopt;
  for (std::string_view rest = *table; !rest.empty();) {
    const auto line = parse_netlink_line(kernel::text::take_line(rest));
    if (line && line->inode == inode) return line;
  }
  return std::nullopt;
}

Result<std::uint32_t> number(int fd, int option) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0) return static_cast<std::uint32_t>(value);
  return Error::from_errno(errno, "ask for the kind of a netlink socket");
}

int protocol_of(const OpenFile& file) {
  if (!file.held) return -1;
  const auto protocol = number(file.held.get(), SO_PROTOCOL);
  return protocol ? static_cast<int>(*protocol) : -1;
}

// Numbers of the groups whose events it gets.
Result<std::vector<std::uint32_t>> groups_of(int fd) {
  socklen_t bytes = 0;
  if (::getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, nullptr, &bytes) != 0) {
    return Error::from_errno(errno, "ask for the groups of a netlink socket");
  }
  std::vector<std::uint32_t> bits((bytes + 3) / 4);
  bytes = static_cast<socklen_t>(bits.size() * sizeof bits[0]);
  if (bytes != 0 && ::getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits.data(), &bytes) != 0) {
    return Error::from_errno(errno, "ask for the groups of a netlink socket");
  }
  std::vector<std::uint32_t> groups;
  for (std::uint32_t bit = 0; bit < bits.size() * 32; ++bit) {
    if ((bits[bit / 32] >> (bit % 32) & 1) != 0) groups.push_back(bit + 1);
  }
  return groups;
}

Result<sockaddr_nl> name_of(int fd) {
  sockaddr_nl name{};
  socklen_t length = sizeof name;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0) return name;
  return Error::from_errno(errno, "ask for the port of a netlink socket");
}

Result<void> check(const NetlinkSocketRecord& record) {
  const auto* const family = find_family(static_cast<int>(record.protocol));
  const bool good = family != nullptr && (family->numbered_groups || record.groups.empty()) &&
                    record.protocol < MAX_LINKS && (record.type == SOCK_RAW || record.type == SOCK_DGRAM);
  if (good) return {};
  return Error(Errc::kBadImage, "a netlink socket is malformed");
}

Result<void> take_name(int fd, const NetlinkSocketRecord& record) {
  const sockaddr_nl name{.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = record.port, .nl_groups = 0};
  if (record.bound && ::bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0) {
    Error error = Error::from_errno(errno, fmt::format("give a netlink socket port {}", record.port));
    if (error.sys_errno() != EADDRINUSE) return error;
    return std::move(error).with_code(Errc::kExternalPeer).with_help("end who uses it: perhaps the program itself");
  }
  for (const std::uint32_t group : record.groups) {
    if (::setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0) continue;
    return Error::from_errno(errno, fmt::format("join netlink group {}", group));
  }
  if (record.peer_port == 0 && record.peer_groups == 0) return {};
  const sockaddr_nl peer{
      .nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = record.peer_port, .nl_groups = record.peer_groups};
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof peer) == 0) return {};
  return Error::from_errno(errno, fmt::format("connect a netlink socket to port {}", record.peer_port));
}

// Names are taken when all sockets exist, and options last: a filter must not see its own set-up.
Result<void> finish(int fd, const NetlinkSocketRecord& record) {
  STASIS_TRY(take_name(fd, record));
  STASIS_TRY(restore_socket_options(fd, record.options, OptionPhase::kAtTheEnd));
  return set_status_flags(fd, record.flags);
}

}  // namespace

std::optional<NetlinkLine> parse_netlink_line(std::string_view line) {
  // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
  NetlinkLine parsed;
  std::uint32_t dump = 0;
  kernel::text::take_word(line);
  if (!kernel::text::number(kernel::text::take_word(line), parsed.protocol)) return std::nullopt;
  for (int i = 0; i < 2; ++i) kernel::text::take_word(line);
  if (!kernel::text::number(kernel::text::take_word(line), parsed.unread)) return std::nullopt;
  kernel::text::take_word(line);
  if (!kernel::text::number(kernel::text::take_word(line), dump)) return std::nullopt;
  parsed.answering = dump != 0;
  for (int i = 0; i < 2; ++i) kernel::text::take_word(line);
  if (!kernel::text::number(kernel::text::take_word(line), parsed.inode)) return std::nullopt;
  return parsed;
}

bool claims_netlink_socket(const OpenFile& file, const OpenFileTable&) {
  if (!S_ISSOCK(file.stat.st_mode) || file.is_path_only() || file.inet_socket || file.unix_socket) return false;
  if (!file.held) return find_line(file.stat.st_ino).has_value();
  int domain = 0;
  socklen_t length = sizeof domain;
  return ::getsockopt(file.held.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_NETLINK;
}

std::optional<Obstacle> netlink_socket_obstacle(const OpenFile& file, const OpenFileTable&, const CheckpointPolicy&) {
  // One that was never used has no name and no line.
  const NetlinkLine line = find_line(file.stat.st_ino).value_or(NetlinkLine{.protocol = protocol_of(file)});
  const Family* const family = find_family(line.protocol);
  if (family == nullptr) {
    return file.obstacle(Errc::kUnsupportedObject,
                         fmt::format("a netlink socket of family {} can't be saved", line.protocol),
                         "close it, or end what uses it, first");
  }
  if (line.answering || line.unread != 0) {
    return file.obstacle(
        Errc::kUnsupportedObject,
        fmt::format("unread messages wait in a netlink socket ({}), which can't be put back", family->name),
        "try again when the program has read them");
  }
  if (!file.held || family->numbered_groups) return std::nullopt;
  const auto groups = groups_of(file.held.get());
  if (groups && groups->empty()) return std::nullopt;
  return file.obstacle(
      Errc::kUnsupportedObject,
      fmt::format("a netlink socket ({}) is in groups whose numbers are this boot's own", family->name),
      "close it, or end what uses it, first");
}

Result<void> checkpoint_netlink_socket(void* context, ObjRef ref, void* object) {
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const int fd = file.held.get();
  NetlinkSocketRecord record{.flags = file.info.flags};
  record.type = STASIS_TRY(number(fd, SO_TYPE));
  record.protocol = STASIS_TRY(number(fd, SO_PROTOCOL));
  const sockaddr_nl name = STASIS_TRY(name_of(fd));
  record.bound = name.nl_pid != 0;
  record.port = name.nl_pid;
  record.groups = STASIS_TRY(groups_of(fd));
  sockaddr_nl peer{};
  socklen_t length = sizeof peer;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) == 0) {
    record.peer_port = peer.nl_pid;
    record.peer_groups = peer.nl_groups;
  }
  record.options = STASIS_TRY(save_socket_options(fd));
  return CheckpointContext::of(context).write_object(ref, kind::kNetlink, record);
}

Result<void*> restore_netlink_socket(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  NetlinkSocketRecord record = STASIS_TRY(ctx.image.read<NetlinkSocketRecord>());
  STASIS_TRY(check(record));
  UniqueFd made(::socket(AF_NETLINK, static_cast<int>(record.type) | SOCK_CLOEXEC, static_cast<int>(record.protocol)));
  if (!made) return Error::from_errno(errno, fmt::format("make a netlink socket of family {}", record.protocol));
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(ctx.park(std::move(made)));
  UniqueFd own = STASIS_TRY(ctx.park_duplicate(file->fd.get()));
  STASIS_TRY(
      ctx.deferred.add([record = std::move(record), own = std::move(own)] { return finish(own.get(), record); }));
  return to_object(std::move(file));
}

}  // namespace stasis
