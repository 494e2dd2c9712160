// SPDX-License-Identifier: Apache-2.0
// scenario: root ports
// TCP connections between sockets of the program go on where they were: bytes unread, bytes that the other side has no
// room for yet, a side that is shut down; both sides' addresses and options stay.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <vector>

#include "scenario.h"

namespace {

struct Connection {
  int client = -1;
  int server = -1;
};

sockaddr_in name_of(int fd) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  return address;
}

sockaddr_in peer_of(int fd) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length);
  return address;
}

bool same(const sockaddr_in& a, const sockaddr_in& b) {
  return a.sin_port == b.sin_port && a.sin_addr.s_addr == b.sin_addr.s_addr;
}

Connection connected(int listener) {
  const sockaddr_in address = name_of(listener);
  Connection made;
  made.client = SETUP(socket(AF_INET, SOCK_STREAM, 0));
  SETUP(connect(made.client, reinterpret_cast<const sockaddr*>(&address), sizeof address));
  made.server = SETUP(accept(listener, nullptr, nullptr));
  return made;
}

std::string pattern(std::size_t bytes, unsigned seed) {
  std::string text(bytes, '\0');
  for (auto& c : text) {
    seed = seed * 1103515245U + 12345U;
    c = static_cast<char>(seed >> 16);
  }
  return text;
}

// Waits for all of it; the other side may have to send it first.
std::string read_all(int fd, std::size_t bytes) {
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (text.size() < bytes) {
    pollfd poll_fd{fd, POLLIN, 0};
    if (poll(&poll_fd, 1, 120000) != 1) break;
    const ssize_t got = recv(fd, buffer.data(), std::min(buffer.size(), bytes - text.size()), 0);
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

void check_both_ways(const Connection& c, const char* what) {
  CHECK(send(c.client, "ping", 4, MSG_NOSIGNAL) == 4, "%s: send: %s", what, std::strerror(errno));
  CHECK(read_all(c.server, 4) == "ping", "%s: no ping", what);
  CHECK(send(c.server, "pong", 4, MSG_NOSIGNAL) == 4, "%s: send back: %s", what, std::strerror(errno));
  CHECK(read_all(c.client, 4) == "pong", "%s: no pong", what);
}

}  // namespace

int main() {
  const int listener = SETUP(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  SETUP(bind(listener, reinterpret_cast<const sockaddr*>(&any), sizeof any));
  SETUP(listen(listener, 10));

  const Connection idle = connected(listener), unread = connected(listener), full = connected(listener),
                   half = connected(listener);
  const sockaddr_in idle_client = name_of(idle.client);
  const int on = 1;
  SETUP(setsockopt(idle.client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
  SETUP(setsockopt(idle.server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
  check_both_ways(idle, "before");

  const std::string there = pattern(50000, 1), back = pattern(1234, 2);
  SETUP(send(unread.client, there.data(), there.size(), 0));
  SETUP(send(unread.server, back.data(), back.size(), 0));
  // Until both the sender's and the receiver's buffer are full.
  fcntl(full.client, F_SETFL, O_NONBLOCK);
  std::string full_text;
  for (unsigned i = 0, misses = 0; misses < 5; ++i) {
    const std::string piece = pattern(7001, 100 + i);
    const ssize_t sent = send(full.client, piece.data(), piece.size(), 0);
    if (sent > 0) full_text += piece.substr(0, static_cast<std::size_t>(sent));
    if (sent < 0) {
      ++misses;
      scenario::pause_ms(20);
    }
  }
  SETUP(send(half.client, "last words", 10, 0));
  SETUP(shutdown(half.client, SHUT_WR));

  scenario::ready_and_wait();

  CHECK(same(name_of(idle.client), idle_client) && same(peer_of(idle.server), idle_client),
        "the client's port changed");
  CHECK(same(peer_of(idle.client), name_of(listener)), "the server's port changed");
  int value = 0;
  socklen_t length = sizeof value;
  CHECK_EQ(getsockopt(idle.client, IPPROTO_TCP, TCP_NODELAY, &value, &length), 0);
  CHECK(value != 0, "TCP_NODELAY is lost");
  CHECK_EQ(getsockopt(idle.server, SOL_SOCKET, SO_REUSEADDR, &value, &length), 0);
  CHECK_EQ(value, 1);
  CHECK_EQ(getsockopt(idle.client, SOL_SOCKET, SO_REUSEADDR, &value, &length), 0);
  CHECK_EQ(value, 0);
  check_both_ways(idle, "idle");
  CHECK(read_all(unread.server, there.size()) == there, "unread bytes differ");
  CHECK(read_all(unread.client, back.size()) == back, "unread bytes the other way differ");
  check_both_ways(unread, "unread");
  CHECK(read_all(full.server, full_text.size()) == full_text, "what filled both buffers differs");
  fcntl(full.client, F_SETFL, 0);
  check_both_ways(full, "full");
  CHECK(read_all(half.server, 100) == "last words", "the last words of a side that is shut down are lost");
  char byte = 0;
  CHECK_EQ(recv(half.server, &byte, 1, 0), 0);
  CHECK(send(half.client, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "a side that was shut down sends");
  CHECK_EQ(send(half.server, "reply", 5, 0), 5);
  CHECK(read_all(half.client, 5) == "reply", "a half-closed connection is dead");
  const Connection more = connected(listener);
  check_both_ways(more, "a new connection");
  return scenario::finish();
}
