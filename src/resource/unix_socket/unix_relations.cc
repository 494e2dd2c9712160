// SPDX-License-Identifier: Apache-2.0
#include "resource/unix_socket/unix_relations.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>

#include "kernel/unix_name.h"

namespace stasis {
namespace {

// include/net/tcp_states.h
constexpr int kEstablished = 1;
constexpr int kListen = 10;

bool waits_at_listener(std::uint64_t inode, const OpenFileTable& tree) {
  return std::ranges::any_of(tree.files, [&](const auto& file) {
    return file->unix_socket && file->unix_socket->state == kListen &&
           std::ranges::find(file->unix_socket->unaccepted, inode) != file->unix_socket->unaccepted.end();
  });
}

UnixRelation find_datagram_relation(const OpenFile& file, const OpenFileTable& tree) {
  if (!file.peer_inode) return {};
  if (*file.peer_inode == 0) return {.role = UnixRole::kOrphan};
  OpenFile* const peer = tree.find_socket(*file.peer_inode);
  if (peer == nullptr) return {.role = UnixRole::kReconnect, .outside = true};
  const bool mutual = peer->peer_inode == file.stat.st_ino && peer != &file;
  return {.role = mutual ? UnixRole::kLinked : UnixRole::kConnected, .peer = peer};
}

}  // namespace

UnixRelation find_unix_relation(const OpenFile& file, const OpenFileTable& tree) {
  const kernel::UnixSocketState& state = *file.unix_socket;
  if (state.type == SOCK_DGRAM) return find_datagram_relation(file, tree);
  if (state.state == kListen) return {.role = UnixRole::kListening};
  if (state.state != kEstablished) return {};
  if (OpenFile* const peer = tree.find_socket(file.peer_inode.value_or(0))) {
    return {.role = UnixRole::kLinked, .peer = peer};
  }
  if (file.peer_inode.value_or(0) != 0) return {.role = UnixRole::kReconnect, .outside = true};
  if (waits_at_listener(file.stat.st_ino, tree)) return {.role = UnixRole::kPending};
  constexpr int kBoth = 3;
  if (state.shutdown == kBoth) return {.role = UnixRole::kLinked};
  return {.role = UnixRole::kReconnect, .outside = true};  // waits at a listener outside
}

std::string describe_waiting(std::uint64_t client, const OpenFileTable& tree) {
  if (client == 0) return "a connection waits to be accepted whose client has closed it already";
  if (tree.find_socket(client) != nullptr) return {};
  return "a connection from outside of the process tree waits to be accepted";
}

std::string describe_unix_peer(const OpenFile& file, const OpenFileTable& tree) {
  std::string name;
  if (file.held) {
    if (auto found = kernel::unix_peer_name_of(file.held.get())) name = *std::move(found);
  } else if (const auto state = kernel::unix_socket_state(file.peer_inode.value_or(0)); state && *state) {
    name = (*state)->name;
    if (!name.empty() && name.front() != '\0') name.resize(std::min(name.find('\0'), name.size()));
  }
  const std::string what = name.empty() ? "a socket without a name" : kernel::printable_unix_name(name);
  const auto holders = tree.outside.of(fmt::format("socket:[{}]", file.peer_inode.value_or(0)));
  if (holders.empty()) return what + ", of a process that we may not look at";
  return fmt::format("{}, {}", what, holders.front().to_string());
}

}  // namespace stasis
