// SPDX-License-Identifier: Apache-2.0
// Listening TCP sockets (IPv4, IPv6, SO_REUSEPORT) go on serving at the same port, with their options.
// scenario: ports
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "scenario.h"

namespace {

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  getsockopt(fd, level, name, &value, &length);
  return value;
}

void set_option(int fd, int level, int name, int value) { SETUP(setsockopt(fd, level, name, &value, sizeof value)); }

sockaddr_storage address_of(bool v6, int port, socklen_t& length) {
  sockaddr_storage storage{};
  if (v6) {
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(static_cast<std::uint16_t>(port));
    address.sin6_addr = in6addr_loopback;
    std::memcpy(&storage, &address, length = sizeof address);
  } else {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    std::memcpy(&storage, &address, length = sizeof address);
  }
  return storage;
}

int port_of(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);  // at the same place in both families
}

int backlog_of(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length);
  return static_cast<int>(info.tcpi_sacked);
}

void check_serves(int server, bool v6, const char* what) {
  const int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
  socklen_t length = 0;
  const sockaddr_storage address = address_of(v6, port_of(server), length);
  if (CHECK(connect(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0, "%s: connect: %s", what,
            std::strerror(errno))) {
    const int accepted = accept(server, nullptr, nullptr);
    if (CHECK(accepted >= 0, "%s: accept: %s", what, std::strerror(errno))) {
      std::array<char, 8> buffer{};
      CHECK_EQ(send(fd, "hello", 5, 0), 5);
      CHECK_EQ(recv(accepted, buffer.data(), buffer.size(), 0), 5);
      close(accepted);
    }
  }
  close(fd);
}

}  // namespace

int main() {
  socklen_t length = 0;
  sockaddr_storage address = address_of(false, 0, length);
  const int plain = SETUP(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  SETUP(bind(plain, reinterpret_cast<const sockaddr*>(&address), length));
  SETUP(listen(plain, 17));
  set_option(plain, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(plain, IPPROTO_TCP, TCP_KEEPIDLE, 77);
  set_option(plain, SOL_SOCKET, SO_KEEPALIVE, 1);
  fcntl(plain, F_SETFL, 0);
  const int plain_port = port_of(plain);

  // Two share a port.
  const std::array<int, 2> shared = {SETUP(socket(AF_INET, SOCK_STREAM, 0)), SETUP(socket(AF_INET, SOCK_STREAM, 0))};
  for (const int fd : shared) {
    set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    address = address_of(false, fd == shared[0] ? 0 : port_of(shared[0]), length);
    SETUP(bind(fd, reinterpret_cast<const sockaddr*>(&address), length));
    SETUP(listen(fd, 5));
  }
  const int six = socket(AF_INET6, SOCK_STREAM, 0);
  address = address_of(true, 0, length);
  const bool have_six = six >= 0 && bind(six, reinterpret_cast<const sockaddr*>(&address), length) == 0;
  if (have_six) {
    SETUP(listen(six, 5));
  } else {
    scenario::skip_part("no IPv6 here");
  }
  const int six_port = have_six ? port_of(six) : 0;
  const int v6only = have_six ? SETUP(socket(AF_INET6, SOCK_STREAM, 0)) : -1;
  if (have_six) set_option(v6only, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  const int unbound = SETUP(socket(AF_INET, SOCK_STREAM, 0));
  set_option(unbound, SOL_SOCKET, SO_REUSEADDR, 1);

  scenario::ready_and_wait();

  CHECK_EQ(port_of(plain), plain_port);
  CHECK_EQ(backlog_of(plain), 17);
  CHECK_EQ(option(plain, IPPROTO_TCP, TCP_KEEPIDLE), 77);
  CHECK(option(plain, IPPROTO_TCP, TCP_NODELAY) != 0, "TCP_NODELAY is lost");
  CHECK_EQ(option(plain, SOL_SOCKET, SO_KEEPALIVE), 1);
  CHECK_EQ(option(plain, SOL_SOCKET, SO_REUSEADDR), 0);
  CHECK_EQ(option(plain, SOL_SOCKET, SO_ACCEPTCONN), 1);
  check_serves(plain, false, "IPv4");
  CHECK_EQ(port_of(shared[0]), port_of(shared[1]));
  CHECK_EQ(option(shared[1], SOL_SOCKET, SO_REUSEPORT), 1);
  if (have_six) {
    CHECK_EQ(port_of(six), six_port);
    check_serves(six, true, "IPv6");
    CHECK_EQ(option(v6only, IPPROTO_IPV6, IPV6_V6ONLY), 1);
  }
  CHECK_EQ(option(unbound, SOL_SOCKET, SO_REUSEADDR), 1);
  return scenario::finish();
}
