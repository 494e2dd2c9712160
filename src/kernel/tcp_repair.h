// SPDX-License-Identifier: Apache-2.0
// TCP connections taken out of the kernel and put back (TCP_REPAIR: net/ipv4/tcp.c, Linux 3.5; windows 4.8).
//
// A socket in repair mode sends nothing that is new, and closing it tells the other side nothing; but its timers run
// and it takes what comes. Entering it takes CAP_NET_ADMIN (kMissingCapability).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "kernel/inet_address.h"
#include "stasis/result.h"

namespace stasis::kernel {

struct TcpWindow {
  std::uint32_t snd_wl1 = 0;
  std::uint32_t snd_wnd = 0;
  std::uint32_t max_window = 0;
  std::uint32_t rcv_wnd = 0;
  std::uint32_t rcv_wup = 0;
};

struct TcpConnection {
  std::vector<std::byte> unread;
  std::uint32_t receive_sequence = 0;  // of the byte behind `unread`
  std::vector<std::byte> unacknowledged;
  std::uint32_t send_sequence = 0;  // of the byte behind `unacknowledged`
  std::uint32_t unsent = 0;         // how many of those at its end were never sent
  std::uint32_t mss = 0;
  bool window_scaling = false;
  std::uint8_t send_scale = 0;
  std::uint8_t receive_scale = 0;
  bool selective_acknowledgement = false;
  std::optional<std::uint32_t> timestamp;
  TcpWindow window;
  bool end_sent = false;      // shut down for writing
  bool end_received = false;  // by the other side
};

Result<void> enter_repair(int fd);
Result<void> leave_repair(int fd);
// Leaves it with a packet that makes the other side say where it stands.
Result<void> leave_repair_with_probe(int fd);

// Reads an established connection whose program stands still. On a failure, too, it is out of repair mode afterwards.
Result<TcpConnection> read_tcp_connection(int fd);
// Both ends of one connection as they were at one moment: nobody has what the other has not sent, or forgot what the
// other has not got. (The kernel repeats and acknowledges what it likes while programs stand still.)
Result<std::pair<TcpConnection, TcpConnection>> read_tcp_connections(int one, int other);
// Makes a fresh socket an established connection; it stays in repair mode. What was never sent must be sent after that.
// Its buffers may become larger than they were.
Result<void> write_tcp_connection(int fd, const TcpConnection& connection, const InetAddress& local,
                                  const InetAddress& remote);
// What was never sent, when the connection is out of repair mode.
Result<void> send_unsent(int fd, const TcpConnection& connection);

}  // namespace stasis::kernel
