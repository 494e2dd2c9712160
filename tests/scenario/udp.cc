// SPDX-License-Identifier: Apache-2.0
// UDP sockets, bound and connected, keep addresses, options and the datagrams that other sockets of the program sent.
// scenario: ports
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>

#include "scenario.h"

namespace {

sockaddr_in loopback(int port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int bound(in_addr_t to) {
  const int fd = SETUP(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
  sockaddr_in address = loopback();
  address.sin_addr.s_addr = htonl(to);
  SETUP(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address));
  return fd;
}

int port_of(int fd) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.sin_port);
}

void send_to(int fd, const std::string& text, int port) {
  const sockaddr_in to = loopback(port);
  CHECK_EQ(sendto(fd, text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to), text.size());
}

struct Datagram {
  std::string text;
  int port = 0;
};

Datagram receive(int fd) {
  std::array<char, 65536> buffer;
  sockaddr_in from{};
  socklen_t length = sizeof from;
  const ssize_t got =
      recvfrom(fd, buffer.data(), buffer.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &length);
  if (got < 0) return {"-", 0};
  return {std::string(buffer.data(), static_cast<std::size_t>(got)), ntohs(from.sin_port)};
}

}  // namespace

int main() {
  const int server = bound(INADDR_LOOPBACK), other = bound(INADDR_LOOPBACK), anywhere = bound(INADDR_ANY);
  const int server_port = port_of(server), other_port = port_of(other), any_port = port_of(anywhere);
  const int on = 1, ttl = 33;
  SETUP(setsockopt(server, SOL_SOCKET, SO_BROADCAST, &on, sizeof on));
  SETUP(setsockopt(server, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl));
  SETUP(setsockopt(other, IPPROTO_IP, IP_PKTINFO, &on, sizeof on));

  const int client = SETUP(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
  const sockaddr_in to = loopback(server_port);
  SETUP(connect(client, reinterpret_cast<const sockaddr*>(&to), sizeof to));
  const int client_port = port_of(client);

  const std::string large(20000, 'l');
  send_to(other, "from other", server_port);
  SETUP(send(client, "from client", 11, 0));
  SETUP(send(client, "", 0, 0));
  send_to(other, large, server_port);
  send_to(server, "to anywhere", any_port);
  send_to(server, "to client", client_port);
  const int fresh = SETUP(socket(AF_INET6, SOCK_DGRAM, 0));

  scenario::ready_and_wait();

  CHECK_EQ(port_of(server), server_port);
  CHECK_EQ(port_of(client), client_port);
  CHECK_EQ(port_of(anywhere), any_port);
  int value = 0;
  socklen_t length = sizeof value;
  CHECK_EQ(getsockopt(server, IPPROTO_IP, IP_TTL, &value, &length), 0);
  CHECK_EQ(value, ttl);
  CHECK_EQ(getsockopt(server, SOL_SOCKET, SO_BROADCAST, &value, &length), 0);
  CHECK_EQ(value, 1);
  CHECK_EQ(getsockopt(other, IPPROTO_IP, IP_PKTINFO, &value, &length), 0);
  CHECK_EQ(value, 1);
  CHECK((fcntl(server, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");

  const struct {
    int fd;
    std::string text;
    int port;
  } expected[] = {{server, "from other", other_port},
                  {server, "from client", client_port},
                  {server, "", client_port},
                  {server, large, other_port},
                  {server, "-", 0},
                  {anywhere, "to anywhere", server_port},
                  {client, "to client", server_port},
                  {client, "-", 0}};
  for (const auto& e : expected) {
    const Datagram found = receive(e.fd);
    CHECK(found.text == e.text && found.port == e.port, "a datagram of %zu bytes from port %d, not %zu from %d",
          found.text.size(), found.port, e.text.size(), e.port);
  }
  CHECK_EQ(send(client, "again", 5, 0), 5);
  const Datagram again = receive(server);
  CHECK(again.text == "again" && again.port == client_port, "the client is not connected");
  send_to(server, "back", client_port);
  CHECK(receive(client).text == "back", "the client hears nothing");
  CHECK_EQ(send(fresh, "x", 1, 0), -1);
  return scenario::finish();
}
