// SPDX-License-Identifier: Apache-2.0
// TCP connections that wait at a listening socket until they are accepted. No descriptor leads to them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernel/inet_address.h"

namespace stasis::kernel {

// One end of a connection that no process has, or none any more.
struct WaitingConnection {
  InetAddress local;
  InetAddress remote;
  int state = 0;             // TCP_ESTABLISHED (1), TCP_CLOSE_WAIT (8): the other side has shut down
  std::uint32_t unread = 0;  // bytes; the end of what the other side sends counts as one
};
// From the text of /proc/net/tcp or tcp6. Pure.
std::vector<WaitingConnection> parse_waiting_connections(std::string_view text);
// All of our network namespace.
std::vector<WaitingConnection> waiting_connections();

}  // namespace stasis::kernel
