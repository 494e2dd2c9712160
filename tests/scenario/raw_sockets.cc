// SPDX-License-Identifier: Apache-2.0
// Raw sockets keep protocol, addresses and options, and go on sending and receiving.
// scenario: root ports
#include <arpa/inet.h>
#include <linux/icmp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "scenario.h"

namespace {

constexpr int kTestProtocol = 253;  // "for experimentation and testing", RFC 3692

sockaddr_in loopback(std::uint32_t host) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host);
  return address;
}

int raw(int protocol, std::uint32_t host) {
  const int fd = SETUP(socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, protocol));
  const sockaddr_in address = loopback(host);
  SETUP(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address));
  return fd;
}

// What comes next, without its IP header.
std::string received(int fd) {
  std::array<char, 256> buffer;
  pollfd poll_fd{fd, POLLIN, 0};
  if (poll(&poll_fd, 1, 1000) != 1) return "-";
  const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
  return got < 20 ? "?" : std::string(buffer.data() + 20, static_cast<std::size_t>(got) - 20);
}

bool hears_nothing(int fd) {
  std::array<char, 256> buffer;
  return recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT) < 0;
}

void check_all(int one, int two, int connected, const char* when) {
  const sockaddr_in to_two = loopback(2);
  CHECK(sendto(one, "to two", 6, 0, reinterpret_cast<const sockaddr*>(&to_two), sizeof to_two) == 6, "%s: send: %s",
        when, std::strerror(errno));
  CHECK(received(two) == "to two", "%s: nothing comes", when);
  CHECK(send(connected, "to one", 6, 0) == 6, "%s: send by a connected socket: %s", when, std::strerror(errno));
  CHECK(received(one) == "to one", "%s: nothing comes from a connected socket", when);
  CHECK(hears_nothing(connected), "%s: a socket hears what is not for it", when);
}

}  // namespace

int main() {
  const int one = raw(kTestProtocol, 1), two = raw(kTestProtocol, 2), connected = raw(kTestProtocol, 3);
  const sockaddr_in to_one = loopback(1);
  SETUP(connect(connected, reinterpret_cast<const sockaddr*>(&to_one), sizeof to_one));
  const int ping = raw(IPPROTO_ICMP, 1);
  icmp_filter filter{};
  filter.data = ~(1u << ICMP_ECHOREPLY);
  SETUP(setsockopt(ping, SOL_RAW, ICMP_FILTER, &filter, sizeof filter));
  const int own_header = SETUP(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
  check_all(one, two, connected, "before");

  scenario::ready_and_wait();

  check_all(one, two, connected, "after");
  std::array<unsigned char, 8> echo = {ICMP_ECHO, 0, 0xf7, 0xff, 0, 0, 0, 0};
  CHECK_EQ(sendto(ping, echo.data(), echo.size(), 0, reinterpret_cast<const sockaddr*>(&to_one), sizeof to_one),
           static_cast<long>(echo.size()));
  const std::string reply = received(ping);
  CHECK(reply.size() == echo.size() && reply[0] == ICMP_ECHOREPLY, "no echo (or the question is heard, too)");
  icmp_filter found{};
  socklen_t length = sizeof found;
  CHECK_EQ(getsockopt(ping, SOL_RAW, ICMP_FILTER, &found, &length), 0);
  CHECK_EQ(found.data, filter.data);
  int value = 0;
  length = sizeof value;
  CHECK_EQ(getsockopt(own_header, IPPROTO_IP, IP_HDRINCL, &value, &length), 0);
  CHECK_EQ(value, 1);
  CHECK((fcntl(one, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");
  return scenario::finish();
}
