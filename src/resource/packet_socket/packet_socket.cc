// SPDX-License-Identifier: Apache-2.0
#include "resource/packet_socket/packet_socket.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <span>

#include "base/log.h"
#include "kernel/namespaces.h"
#include "kernel/packet_diag.h"
#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

using kernel::PacketSocketState;

constexpr int kCapNetRaw = 13;
constexpr std::uint32_t kMaxMemberships = 1'000'000;  // of one kind
constexpr std::string_view kCloseIt = "close it, or end what uses it, first";

// Nothing: there is none by that number.
std::optional<std::string> interface_name(std::uint32_t number) {
  std::array<char, IF_NAMESIZE> name{};
  if (::if_indextoname(number, name.data()) == nullptr) return std::nullopt;
  return std::string(name.data());
}

Result<int> interface_number(const std::string& name) {
  if (name.empty()) return 0;
  const unsigned number = ::if_nametoindex(name.c_str());
  if (number != 0) return static_cast<int>(number);
  return Error(Errc::kNotFound, fmt::format("there is no network interface {} here", name))
      .with_help("a packet socket of the program uses it");
}

Result<PacketSocketState> state_of(const OpenFile& file) {
  const auto state = STASIS_TRY(kernel::packet_socket_state(file.stat.st_ino));
  if (state) return *state;
  return Error(Errc::kUnsupportedObject, "the kernel does not tell what a packet socket is like");
}

Error gone() { return Error(Errc::kUnsupportedObject, "the network interface of a packet socket is gone"); }

// What keeps such a socket from being made again; empty: nothing.
std::string why_not_again(const PacketSocketState& state) {
  if (state.type != SOCK_RAW && state.type != SOCK_DGRAM) return "a packet socket of the old type can't be saved";
  if (state.ring) return "a packet socket with a ring that it shares with the kernel can't be saved";
  if (state.fanout) return "a packet socket in a fanout group can't be saved";
  if (state.interface == PacketSocketState::kGone) return gone().message();
  return {};
}

Result<void> save_memberships(const PacketSocketState& state, PacketSocketRecord& record) {
  for (const kernel::PacketMembership& membership : state.memberships) {
    const auto name = interface_name(membership.interface);
    if (!name) return gone();
    record.memberships.push_back(
        {.interface = *name, .count = membership.count, .type = membership.type, .address = membership.address});
  }
  return {};
}

// packet_mreq with room for every address, which the kernel takes, too (packet_mreq_max in net/packet/internal.h).
struct Membership {
  packet_mreq head{};
  std::array<std::byte, 24> rest{};
};
constexpr std::size_t kAddressAt = offsetof(packet_mreq, mr_address);

Result<void> check(const PacketSocketRecord& record) {
  const auto odd = [](const PacketMembershipRecord& m) {
    return m.interface.empty() || m.count > kMaxMemberships || m.type > PACKET_MR_UNICAST ||
           m.address.size() > sizeof(Membership) - kAddressAt;
  };
  if ((record.type == SOCK_RAW || record.type == SOCK_DGRAM) && std::ranges::none_of(record.memberships, odd))
    return {};
  return Error(Errc::kBadImage, "a packet socket is malformed");
}

Result<UniqueFd> make_socket(const PacketSocketRecord& record, const RestartContext& ctx) {
  // Who has it hears everything, and may send it in anybody's name.
  if (ctx.owner.trust == ImageTrust::kOwner) {
    return Error(Errc::kNotPermitted,
                 fmt::format("the image belongs to user {}, who may have no packet sockets", ctx.owner.uid))
        .with_help("if you trust it, make it your own (chown)");
  }
  // Without a protocol it hears nothing yet.
  UniqueFd made(::socket(AF_PACKET, static_cast<int>(record.type) | SOCK_CLOEXEC, 0));
  if (made) return ctx.park(std::move(made));
  Error error = Error::from_errno(errno, "make a packet socket");
  if (error.sys_errno() != EPERM) return error;
  return std::move(error).with_code(Errc::kMissingCapability).with_help("it takes CAP_NET_RAW: run as root");
}

Result<void> join(int fd, const PacketMembershipRecord& membership) {
  Membership request;
  request.head.mr_ifindex = STASIS_TRY(interface_number(membership.interface));
  request.head.mr_type = static_cast<unsigned short>(membership.type);
  request.head.mr_alen = static_cast<unsigned short>(membership.address.size());
  std::ranges::copy(membership.address, std::as_writable_bytes(std::span(&request, 1)).subspan(kAddressAt).begin());
  for (std::uint32_t n = 0; n < membership.count; ++n) {
    if (::setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request) == 0) continue;
    return Error::from_errno(errno, fmt::format("have a packet socket join a group on {}", membership.interface));
  }
  return {};
}

Result<void> bind(int fd, const PacketSocketRecord& record) {
  if (record.protocol == 0 && record.interface.empty()) return {};
  sockaddr_ll name{};
  name.sll_family = AF_PACKET;
  name.sll_protocol = htons(record.protocol);
  name.sll_ifindex = STASIS_TRY(interface_number(record.interface));
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0) {
    return Error::from_errno(errno, fmt::format("bind a packet socket to {}", record.interface));
  }
  // That its interface is down the program knows.
  int known = 0;
  socklen_t length = sizeof known;
  if (!record.running) ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &known, &length);
  return {};
}

// Last of all: no packet may come in before the filter stands.
Result<void> finish(int fd, const PacketSocketRecord& record) {
  STASIS_TRY(restore_socket_options(fd, record.options, OptionPhase::kBeforeBind));
  STASIS_TRY(restore_socket_options(fd, record.options, OptionPhase::kAtTheEnd));
  const auto threshold = static_cast<int>(record.copy_threshold);
  if (threshold != 0 && ::setsockopt(fd, SOL_PACKET, PACKET_COPY_THRESH, &threshold, sizeof threshold) != 0) {
    return Error::from_errno(errno, "set the copy threshold of a packet socket");
  }
  STASIS_TRY(bind(fd, record));
  for (const PacketMembershipRecord& membership : record.memberships) STASIS_TRY(join(fd, membership));
  return set_status_flags(fd, record.flags);
}

}  // namespace

bool claims_packet_socket(const OpenFile& file, const OpenFileTable&) {
  if (!S_ISSOCK(file.stat.st_mode) || file.is_path_only() || file.inet_socket || file.unix_socket) return false;
  if (!file.held) return state_of(file).has_value();
  int domain = 0;
  socklen_t length = sizeof domain;
  return ::getsockopt(file.held.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_PACKET;
}

std::optional<Obstacle> packet_socket_obstacle(const OpenFile& file, const OpenFileTable&, const CheckpointPolicy&) {
  const auto state = state_of(file);
  if (!state) return file.obstacle(Errc::kUnsupportedObject, state.error().message(), state.error().help());
  if (std::string why = why_not_again(*state); !why.empty()) {
    return file.obstacle(Errc::kUnsupportedObject, std::move(why), std::string(kCloseIt));
  }
  const auto capable = kernel::has_capability(kCapNetRaw);
  if (capable && *capable) return std::nullopt;
  return file.obstacle(Errc::kMissingCapability, "saving a packet socket takes CAP_NET_RAW", "run as root");
}

Result<void> checkpoint_packet_socket(void* context, ObjRef ref, void* object) {
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const PacketSocketState state = STASIS_TRY(state_of(file));
  PacketSocketRecord record{.flags = file.info.flags,
                            .type = static_cast<std::uint32_t>(state.type),
                            .protocol = state.protocol,
                            .running = state.running,
                            .copy_threshold = state.copy_threshold,
                            .dropped_bytes = state.unread};
  if (state.interface != 0) {
    const auto name = interface_name(state.interface);
    if (!name) return gone();
    record.interface = *name;
  }
  if (state.unread != 0) log::info("packet_socket", "{}: packets that wait unread are dropped", file.link);
  STASIS_TRY(save_memberships(state, record));
  record.options = STASIS_TRY(save_socket_options(file.held.get()));
  return CheckpointContext::of(context).write_object(ref, kind::kPacket, record);
}

Result<void*> restore_packet_socket(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  PacketSocketRecord record = STASIS_TRY(ctx.image.read<PacketSocketRecord>());
  STASIS_TRY(check(record));
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(make_socket(record, ctx));
  UniqueFd own = STASIS_TRY(ctx.park_duplicate(file->fd.get()));
  STASIS_TRY(
      ctx.deferred.add([record = std::move(record), own = std::move(own)] { return finish(own.get(), record); }));
  return to_object(std::move(file));
}

}  // namespace stasis
