// SPDX-License-Identifier: Apache-2.0
// TCP connections of the program to itself that nobody has accepted yet still wait, in their order, with both ends'
// addresses; what is accepted has the options of the listening socket.
// scenario: ports
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "scenario.h"

namespace {

int port_of(int fd, bool peer = false) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  (peer ? getpeername : getsockname)(fd, reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);  // at the same place in both families
}

int listening(bool v6) {
  const int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto* const address = v6 ? reinterpret_cast<const sockaddr*>(&six) : reinterpret_cast<const sockaddr*>(&four);
  const socklen_t length = v6 ? sizeof six : sizeof four;
  if (fd < 0 || bind(fd, address, length) != 0 || listen(fd, 10) != 0) return -1;
  return fd;
}

int connected(int port) {
  const int fd = SETUP(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  SETUP(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to));
  return fd;
}

void check_both_ways(int one, int other, const char* what) {
  std::array<char, 8> buffer{};
  for (const auto& [from, to] : {std::pair(one, other), std::pair(other, one)}) {
    CHECK(send(from, "hello", 5, MSG_NOSIGNAL) == 5, "%s: send: %s", what, std::strerror(errno));
    pollfd poll_fd{to, POLLIN, 0};
    CHECK(poll(&poll_fd, 1, 120000) == 1 && recv(to, buffer.data(), buffer.size(), 0) == 5, "%s: nothing comes", what);
  }
}

}  // namespace

int main() {
  const int listener = SETUP(listening(false));
  const int on = 1;
  SETUP(setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
  std::array<int, 3> clients{}, ports{};
  for (std::size_t i = 0; i < clients.size(); ++i) {
    clients[i] = connected(port_of(listener));
    ports[i] = port_of(clients[i]);
    scenario::pause_ms(20);  // the kernel tells their age in milliseconds
  }
  fcntl(clients[1], F_SETFL, O_NONBLOCK);
  SETUP(setsockopt(clients[2], SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
  const int both = listening(true);
  const int mapped = both < 0 ? -1 : connected(port_of(both));
  if (both < 0) scenario::skip_part("no IPv6 here");

  scenario::ready_and_wait();

  for (std::size_t i = 0; i < clients.size(); ++i) {
    CHECK_EQ(port_of(clients[i]), ports[i]);
    CHECK_EQ(port_of(clients[i], true), port_of(listener));
    pollfd poll_fd{listener, POLLIN, 0};
    if (!CHECK(poll(&poll_fd, 1, 0) == 1, "connection %zu does not wait", i)) break;
    const int accepted = accept(listener, nullptr, nullptr);
    CHECK_EQ(port_of(accepted, true), ports[i]);
    check_both_ways(clients[i], accepted, "accepted afterwards");
    int value = 0;
    socklen_t length = sizeof value;
    CHECK(getsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &value, &length) == 0 && value != 0,
          "the listening socket's options are not passed on");
    close(accepted);
  }
  CHECK((fcntl(clients[0], F_GETFL) & O_NONBLOCK) == 0, "the client has become non-blocking");
  CHECK((fcntl(clients[1], F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");
  pollfd poll_fd{listener, POLLIN, 0};
  CHECK_EQ(poll(&poll_fd, 1, 0), 0);
  if (mapped >= 0) check_both_ways(mapped, accept(both, nullptr, nullptr), "an IPv4 client of an IPv6 socket");
  const int more = connected(port_of(listener));
  check_both_ways(more, accept(listener, nullptr, nullptr), "a new connection");
  return scenario::finish();
}
