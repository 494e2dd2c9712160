// SPDX-License-Identifier: Apache-2.0
#include "kernel/packet_diag.h"

#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

#include <span>
#include <string_view>

#include "kernel/sock_diag.h"

namespace stasis::kernel {
namespace {

constexpr std::string_view kSubject = "packet sockets";
constexpr std::size_t kRmemAlloc = 0;  // SK_MEMINFO_RMEM_ALLOC, the first of its numbers

struct Request {
  nlmsghdr header{};
  packet_diag_req body{};
};

void take_memberships(std::span<const std::byte> payload, PacketSocketState& state) {
  for (; payload.size() >= sizeof(packet_diag_mclist); payload = payload.subspan(sizeof(packet_diag_mclist))) {
    const auto entry = copy_out<packet_diag_mclist>(payload);
    const auto address = std::as_bytes(std::span(entry.pdmc_addr));
    const auto used = address.first(std::min<std::size_t>(entry.pdmc_alen, address.size()));
    state.memberships.push_back({.interface = entry.pdmc_index,
                                 .count = entry.pdmc_count,
                                 .type = entry.pdmc_type,
                                 .address = {used.begin(), used.end()}});
  }
}

void take_attribute(int type, std::span<const std::byte> payload, PacketSocketState& state) {
  switch (type) {
    case PACKET_DIAG_INFO: {
      const auto info = copy_out<packet_diag_info>(payload);
      state.interface = info.pdi_index;
      state.copy_threshold = info.pdi_copy_thresh;
      state.running = (info.pdi_flags & PDI_RUNNING) != 0;
      break;
    }
    case PACKET_DIAG_MCLIST:
      take_memberships(payload, state);
      break;
    case PACKET_DIAG_RX_RING:
    case PACKET_DIAG_TX_RING:
      state.ring = true;
      break;
    case PACKET_DIAG_FANOUT:
      state.fanout = true;
      break;
    case PACKET_DIAG_MEMINFO:
      state.unread = copy_out<std::uint32_t>(payload.subspan(kRmemAlloc));
      break;
    default:
      break;
  }
}

}  // namespace

Result<std::optional<PacketSocketState>> packet_socket_state(std::uint64_t inode) {
  Request request;
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = AF_PACKET;
  request.body.pdiag_show =
      PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT | PACKET_SHOW_MEMINFO;
  std::optional<PacketSocketState> found;
  const auto take = [&](const nlmsghdr& header, std::span<const std::byte> message) -> Result<bool> {
    if (header.nlmsg_type == NLMSG_ERROR) {
      return Error::from_errno(STASIS_TRY(diag_error(message, kSubject)), "ask about packet sockets")
          .with_code(Errc::kKernelFeature);
    }
    if (message.size() < sizeof(packet_diag_msg)) return malformed_answer(kSubject);
    const auto body = copy_out<packet_diag_msg>(message);
    if (body.pdiag_ino != static_cast<std::uint32_t>(inode)) return true;
    found.emplace(PacketSocketState{.type = body.pdiag_type, .protocol = body.pdiag_num});
    STASIS_TRY(for_each_attribute(
        message.subspan(NLMSG_ALIGN(sizeof body)), kSubject,
        [&](int type, std::span<const std::byte> payload) { take_attribute(type, payload, *found); }));
    return true;
  };
  STASIS_TRY(ask_sock_diag(std::as_bytes(std::span(&request, 1)), kSubject, take));
  return found;
}

}  // namespace stasis::kernel
