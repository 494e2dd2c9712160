// SPDX-License-Identifier: Apache-2.0
// UDP sockets stay in their multicast groups: any source, all but some, only some; IPv4 and IPv6.
// scenario: ports
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "scenario.h"

namespace {

constexpr const char* kAny = "239.255.77.1";
constexpr const char* kBlocking = "239.255.77.2";
constexpr const char* kChoosing = "232.255.77.3";
constexpr const char* kNever = "239.255.77.4";

sockaddr_in address_of(const char* text, int port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  inet_pton(AF_INET, text, &address.sin_addr);
  return address;
}

template <class Address>
sockaddr_storage stored(const Address& address) {
  sockaddr_storage storage{};
  std::memcpy(&storage, &address, sizeof address);
  return storage;
}

int bound(const char* to, int port = 0) {
  const int fd = SETUP(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
  const int on = 1, off = 0;
  SETUP(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
  // What it gets, it gets by a membership of its own.
  SETUP(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof off));
  const sockaddr_in address = address_of(to, port);
  SETUP(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address));
  return fd;
}

int port_of(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);  // at the same place in both families
}

// A source of datagrams: they leave by the loopback interface.
int sender(const char* from) {
  const int fd = bound(from);
  const sockaddr_in address = address_of("127.0.0.1");
  SETUP(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &address.sin_addr, sizeof address.sin_addr));
  return fd;
}

std::string received(int fd) {
  std::array<char, 64> buffer;
  pollfd poll_fd{fd, POLLIN, 0};
  poll(&poll_fd, 1, 0);  // loopback delivers within send
  const ssize_t got = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  return got < 0 ? "-" : std::string(buffer.data(), static_cast<std::size_t>(got));
}

void send_to(int fd, const char* group, int port, const std::string& text) {
  const sockaddr_in to = address_of(group, port);
  CHECK(sendto(fd, text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) >= 0,
        "send to %s: %s", group, std::strerror(errno));
}

void join(int fd, const char* group, unsigned interface) {
  group_req request{};
  request.gr_interface = interface;
  request.gr_group = stored(address_of(group));
  SETUP(setsockopt(fd, IPPROTO_IP, MCAST_JOIN_GROUP, &request, sizeof request));
}

void with_source(int fd, int call, const char* group, const char* source, unsigned interface) {
  group_source_req request{};
  request.gsr_interface = interface;
  request.gsr_group = stored(address_of(group));
  request.gsr_source = stored(address_of(source));
  SETUP(setsockopt(fd, IPPROTO_IP, call, &request, sizeof request));
}

// A socket that has joined ff12::4d on the loopback interface; -1: no IPv6 here.
int joined_v6(unsigned interface) {
  const int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  ipv6_mreq request{};
  request.ipv6mr_interface = interface;
  inet_pton(AF_INET6, "ff12::4d", &request.ipv6mr_multiaddr);
  if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &request, sizeof request) != 0) return -1;
  return fd;
}

bool has_left_v6(int fd, unsigned interface) {
  ipv6_mreq request{};
  request.ipv6mr_interface = interface;
  inet_pton(AF_INET6, "ff12::4d", &request.ipv6mr_multiaddr);
  return setsockopt(fd, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &request, sizeof request) == 0;
}

}  // namespace

int main() {
  const unsigned loopback = SETUP(if_nametoindex("lo"));
  const int one = sender("127.0.0.1"), two = sender("127.0.0.2");
  const int any = bound("0.0.0.0"), blocking = bound("0.0.0.0"), choosing = bound("0.0.0.0");
  const int named = bound(kAny);
  join(any, kAny, loopback);
  join(named, kAny, loopback);
  join(blocking, kBlocking, loopback);
  with_source(blocking, MCAST_BLOCK_SOURCE, kBlocking, "127.0.0.2", loopback);
  with_source(choosing, MCAST_JOIN_SOURCE_GROUP, kChoosing, "127.0.0.2", loopback);
  const int six = joined_v6(loopback);
  if (six < 0) scenario::skip_part("no IPv6 here");
  const auto check_all = [&](const char* when) {
    send_to(one, kAny, port_of(any), "to any");
    CHECK(received(any) == "to any", "%s: a member hears nothing", when);
    send_to(one, kAny, port_of(named), "to named");
    CHECK(received(named) == "to named", "%s: a member that is bound to the group hears nothing", when);
    send_to(one, kNever, port_of(any), "astray");
    CHECK(received(any) == "-", "%s: a socket hears of a group that it has not joined", when);
    send_to(one, kBlocking, port_of(blocking), "from one");
    send_to(two, kBlocking, port_of(blocking), "from two");
    CHECK(received(blocking) == "from one", "%s: what is not blocked is not heard", when);
    CHECK(received(blocking) == "-", "%s: a blocked source is heard", when);
    send_to(one, kChoosing, port_of(choosing), "from one");
    send_to(two, kChoosing, port_of(choosing), "from two");
    CHECK(received(choosing) == "from two", "%s: the chosen source is not heard", when);
    CHECK(received(choosing) == "-", "%s: another source is heard", when);
  };
  check_all("before");

  scenario::ready_and_wait();

  check_all("after");
  if (six >= 0) CHECK(has_left_v6(six, loopback), "the IPv6 group was lost: %s", std::strerror(errno));
  in_addr interface{};
  socklen_t length = sizeof interface;
  CHECK_EQ(getsockopt(one, IPPROTO_IP, IP_MULTICAST_IF, &interface, &length), 0);
  CHECK_EQ(ntohl(interface.s_addr), INADDR_LOOPBACK);
  return scenario::finish();
}
