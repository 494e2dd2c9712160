// SPDX-License-Identifier: Apache-2.0
#include "resource/inet_socket/unaccepted.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "resource/inet_socket/inet_peer.h"

namespace stasis {
namespace {

bool is_tcp(const OpenFile& file) {
  return file.inet_socket && file.inet_socket->type == SOCK_STREAM && file.inet_socket->protocol == IPPROTO_TCP;
}

bool is_established(const OpenFile& file) { return is_tcp(file) && file.inet_socket->state == TCP_ESTABLISHED; }

bool are_ends(const kernel::WaitingConnection& far_end, const OpenFile& client) {
  return client.inet_socket->local && client.inet_socket->remote &&
         far_end.local.unmapped() == client.inet_socket->remote->unmapped() &&
         far_end.remote.unmapped() == client.inet_socket->local->unmapped();
}

// How long ago it was made, or last heard of, in milliseconds; the inode number tells those apart that are as old.
std::pair<std::uint32_t, std::uint64_t> age_of(const OpenFile& file) {
  ::tcp_info info{};
  socklen_t length = sizeof info;
  if (file.held) ::getsockopt(file.held.get(), IPPROTO_TCP, TCP_INFO, &info, &length);
  return {info.tcpi_last_ack_recv, ~std::uint64_t{file.stat.st_ino}};
}

}  // namespace

std::optional<kernel::WaitingConnection> find_unaccepted(const OpenFile& client, const OpenFileTable& tree) {
  if (!is_tcp(client) || !client.inet_socket->remote) return std::nullopt;
  const auto listens = [&](const auto& file) {
    return is_tcp(*file) && file->inet_socket->state == TCP_LISTEN && file->inet_socket->local &&
           accepts(*file->inet_socket->local, *client.inet_socket->remote);
  };
  if (std::ranges::none_of(tree.files, listens)) return std::nullopt;
  for (const kernel::WaitingConnection& far_end : kernel::waiting_connections()) {
    if (are_ends(far_end, client)) return far_end;
  }
  return std::nullopt;
}

std::string why_not_again(const OpenFile& client, const kernel::WaitingConnection& far_end) {
  if (!is_established(client) || far_end.state != TCP_ESTABLISHED) {
    return "a connection that is not accepted yet is being closed";
  }
  int unsent = 0;
  if (client.held && ::ioctl(client.held.get(), SIOCOUTQ, &unsent) != 0) unsent = 0;
  if (far_end.unread == 0 && unsent == 0) return {};
  return fmt::format("{} bytes wait in a connection that is not accepted yet, where nobody can read them",
                     far_end.unread + static_cast<std::uint32_t>(unsent));
}

std::uint32_t turn_of(const OpenFile& client, const OpenFileTable& tree) {
  const auto age = age_of(client);
  const auto older = std::ranges::count_if(tree.files, [&](const auto& file) {
    return file.get() != &client && is_established(*file) && file->inet_socket->remote == client.inet_socket->remote &&
           age_of(*file) > age;
  });
  return static_cast<std::uint32_t>(older);
}

std::uint32_t waiting_from_outside(const OpenFile& listener, std::uint32_t waiting, const OpenFileTable& tree) {
  std::uint32_t inside = 0;
  for (const kernel::WaitingConnection& far_end : kernel::waiting_connections()) {
    if (!listener.inet_socket->local || !accepts(*listener.inet_socket->local, far_end.local)) continue;
    const auto is_client = [&](const auto& file) { return is_tcp(*file) && are_ends(far_end, *file); };
    if (std::ranges::any_of(tree.files, is_client)) ++inside;
  }
  return waiting - std::min(inside, waiting);
}

}  // namespace stasis
