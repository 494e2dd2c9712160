// SPDX-License-Identifier: Apache-2.0
// What lies unread in a unix socket's receive queue, copied without taking it out (MSG_PEEK, SO_PEEK_OFF; man 7 unix).
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "kernel/inet_address.h"
#include "stasis/result.h"

namespace stasis::kernel {

struct QueuedMessage {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> files;       // SCM_RIGHTS; duplicates of ours
  std::optional<ucred> credentials;  // only where the socket has SO_PASSCRED
  std::string sender;                // sun_path of the sender's name; a datagram's only
};

// All messages of a queue, in order; a stream's are cut where descriptors or credentials change. The socket's own peek
// offset is left as it was. Nobody may use the socket meanwhile. A pending error of a datagram or seqpacket socket
// (ECONNRESET) would be taken by looking: kUnsupportedObject. Empty datagrams that somebody has peeked at by
// SO_PEEK_OFF are not seen a second time (the kernel passes over them).
Result<std::vector<QueuedMessage>> peek_queue(int fd);

// A datagram in the queue of a UDP socket.
struct QueuedDatagram {
  std::vector<std::byte> bytes;
  std::optional<InetAddress> sender;
};
// The same for a UDP socket. REQUIRES: no error waits on it, looking would take it away.
Result<std::vector<QueuedDatagram>> peek_datagrams(int fd);

// One sendmsg(2) that never blocks; yields the bytes sent. No room: kBusy. `destination`: sun_path of a datagram's
// receiver; empty: the connected one.
struct OutgoingMessage {
  std::span<const std::byte> bytes;
  std::span<const int> files;
  const ucred* credentials = nullptr;
  std::string_view destination;
};
Result<std::size_t> send_message(int fd, const OutgoingMessage& message);

}  // namespace stasis::kernel
