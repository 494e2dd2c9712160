// SPDX-License-Identifier: Apache-2.0
#include "kernel/waiting_connections.h"

#include <fcntl.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <iterator>

#include "base/file.h"
#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

// The fifth word is "sent:unread".
bool take_unread(std::string_view line, std::uint32_t& unread) {
  for (int i = 0; i < 4; ++i) text::take_word(line);
  std::string_view queues = text::take_word(line), sent;
  return text::take_until(queues, ':', sent) && text::number(queues, unread, 16);
}

}  // namespace

std::vector<WaitingConnection> parse_waiting_connections(std::string_view text) {
  std::vector<WaitingConnection> waiting;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view line = text::take_line(rest);
    const auto parsed = parse_inet_line(line);
    if (!parsed || parsed->inode != 0 || !parsed->socket.remote) continue;
    // What a program has closed is in other states.
    const int state = parsed->socket.state;
    if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT) continue;
    WaitingConnection found{.local = *parsed->socket.local, .remote = *parsed->socket.remote, .state = state};
    if (take_unread(line, found.unread)) waiting.push_back(std::move(found));
  }
  return waiting;
}

std::vector<WaitingConnection> waiting_connections() {
  std::vector<WaitingConnection> waiting;
  for (const char* const table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    const auto text = read_file(AT_FDCWD, table);
    if (text) std::ranges::move(parse_waiting_connections(*text), std::back_inserter(waiting));
  }
  return waiting;
}

}  // namespace stasis::kernel
