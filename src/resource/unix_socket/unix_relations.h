// SPDX-License-Identifier: Apache-2.0
// How a unix socket of the tree stands to other sockets, as far as the kernel's socket diagnosis tells.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "resource/open_file/open_file.h"
#include "stasis/image_schema.h"

namespace stasis {

enum class UnixType : std::uint8_t { kStream = 1, kDatagram = 2, kSeqPacket = 5 };
constexpr auto enum_names(UnixType) {
  return std::array{EnumName{UnixType::kStream, "stream"}, EnumName{UnixType::kDatagram, "datagram"},
                    EnumName{UnixType::kSeqPacket, "seqpacket"}};
}

enum class UnixRole : std::uint8_t {
  kSingle = 0,  // neither connected nor listening
  kListening = 1,
  kLinked = 2,     // one end of a link
  kPending = 3,    // connected to a listening socket that has not accepted it yet
  kConnected = 4,  // datagrams only: sends to a socket of the tree, which does not (or no longer) send back
  kOrphan = 5,     // datagrams only: sends to a socket that is closed
  kReconnect = 6,  // to a socket outside of the tree, by its name
};
constexpr auto enum_names(UnixRole) {
  return std::array{EnumName{UnixRole::kSingle, "single"},       EnumName{UnixRole::kListening, "listening"},
                    EnumName{UnixRole::kLinked, "linked"},       EnumName{UnixRole::kPending, "pending"},
                    EnumName{UnixRole::kConnected, "connected"}, EnumName{UnixRole::kOrphan, "orphan"},
                    EnumName{UnixRole::kReconnect, "reconnect"}};
}

struct UnixRelation {
  UnixRole role = UnixRole::kSingle;
  OpenFile* peer = nullptr;  // in the tree; none: its far end is closed, or outside
  bool outside = false;      // the far end is another process's
};
// REQUIRES: file.unix_socket.
UnixRelation find_unix_relation(const OpenFile& file, const OpenFileTable& tree);

// What a waiting connection of a listening socket is, for messages: "" if its client is in the tree.
std::string describe_waiting(std::uint64_t client, const OpenFileTable& tree);
// Who has the far end of a socket that leads outside: "/dev/log, pid 12 (syslogd)".
std::string describe_unix_peer(const OpenFile& file, const OpenFileTable& tree);

}  // namespace stasis
