// SPDX-License-Identifier: Apache-2.0
// Packet sockets keep interface, protocol, options, filter and memberships, and go on sending and receiving.
// scenario: root ports
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "scenario.h"

namespace {

constexpr std::uint16_t kProtocol = 0x88b5;  // for experiments, IEEE 802

sockaddr_ll loopback(std::uint16_t protocol) {
  sockaddr_ll name{};
  name.sll_family = AF_PACKET;
  name.sll_protocol = htons(protocol);
  name.sll_ifindex = static_cast<int>(SETUP(if_nametoindex("lo")));
  name.sll_halen = 6;
  return name;
}

void set(int fd, int level, int name, int value) { SETUP(setsockopt(fd, level, name, &value, sizeof value)); }

int get(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  CHECK_EQ(getsockopt(fd, level, name, &value, &length), 0);
  return value;
}

sockaddr_ll name_of(int fd) {
  sockaddr_ll name{};
  socklen_t length = sizeof name;
  CHECK_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length), 0);
  return name;
}

void send_text(int fd, const std::string& text) {
  const sockaddr_ll to = loopback(kProtocol);
  CHECK(sendto(fd, text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) ==
            static_cast<ssize_t>(text.size()),
        "send: %s", std::strerror(errno));
}

// The next packet (without its header) that carries a text of ours; others may use the loopback, too.
std::string received(int fd) {
  std::array<char, 512> buffer;
  pollfd poll_fd{fd, POLLIN, 0};
  if (poll(&poll_fd, 1, 120000) != 1) return "-";
  const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
  return got < 0 ? "?" : std::string(buffer.data(), static_cast<std::size_t>(got));
}

// Is the loopback interface in the group?
bool in_group() {
  std::string text;
  std::array<char, 4096> buffer;
  const int fd = open("/proc/net/dev_mcast", O_RDONLY | O_CLOEXEC);
  for (ssize_t got; (got = read(fd, buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), std::size_t(got));
  close(fd);
  return text.find("010000004711") != std::string::npos;
}

int leave(int fd, const packet_mreq& group) {
  return setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &group, sizeof group);
}

}  // namespace

int main() {
  // Takes what begins with A, and only what comes in.
  const int filtered = SETUP(socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  std::array<sock_filter, 4> code = {sock_filter{BPF_LD | BPF_B | BPF_ABS, 0, 0, 0},
                                     sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'A'},
                                     sock_filter{BPF_RET | BPF_K, 0, 0, 0xffff}, sock_filter{BPF_RET | BPF_K, 0, 0, 0}};
  const sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  SETUP(setsockopt(filtered, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
  set(filtered, SOL_SOCKET, SO_LOCK_FILTER, 1);
  set(filtered, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
  set(filtered, SOL_PACKET, PACKET_AUXDATA, 1);
  set(filtered, SOL_SOCKET, SO_RCVBUF, 100000);
  const int buffer = get(filtered, SOL_SOCKET, SO_RCVBUF);
  const sockaddr_ll lo = loopback(kProtocol);
  SETUP(bind(filtered, reinterpret_cast<const sockaddr*>(&lo), sizeof lo));
  packet_mreq group{};
  group.mr_ifindex = lo.sll_ifindex;
  group.mr_type = PACKET_MR_MULTICAST;
  group.mr_alen = 6;
  group.mr_address[0] = 1;
  group.mr_address[4] = 0x47;
  group.mr_address[5] = 0x11;
  for (int i = 0; i < 2; ++i) SETUP(setsockopt(filtered, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &group, sizeof group));

  // All interfaces, from the start; nothing but its own header before what it sends.
  const int everywhere = SETUP(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(kProtocol + 1)));
  set(everywhere, SOL_PACKET, PACKET_VERSION, TPACKET_V3);
  set(everywhere, SOL_PACKET, PACKET_RESERVE, 32);
  const int sender = SETUP(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  send_text(sender, "A before");
  CHECK(received(filtered) == "A before", "nothing comes before the checkpoint");
  send_text(sender, "A unread");

  scenario::ready_and_wait();

  // What waited may be lost; what comes now must not.
  send_text(sender, "B is filtered out");
  send_text(sender, "A after");
  std::string text = received(filtered);
  if (text == "A unread") text = received(filtered);
  CHECK(text == "A after", "'%s' comes", text.c_str());
  CHECK_EQ(name_of(filtered).sll_protocol, htons(kProtocol));
  CHECK_EQ(name_of(filtered).sll_ifindex, lo.sll_ifindex);
  CHECK_EQ(name_of(everywhere).sll_protocol, htons(kProtocol + 1));
  CHECK_EQ(name_of(everywhere).sll_ifindex, 0);
  CHECK_EQ(name_of(sender).sll_protocol, 0);
  CHECK_EQ(get(filtered, SOL_PACKET, PACKET_AUXDATA), 1);
  CHECK_EQ(get(filtered, SOL_PACKET, PACKET_IGNORE_OUTGOING), 1);
  CHECK_EQ(get(filtered, SOL_SOCKET, SO_RCVBUF), buffer);
  CHECK_EQ(get(filtered, SOL_SOCKET, SO_LOCK_FILTER), 1);
  CHECK_EQ(get(everywhere, SOL_PACKET, PACKET_VERSION), TPACKET_V3);
  CHECK_EQ(get(everywhere, SOL_PACKET, PACKET_RESERVE), 32);
  CHECK_EQ(get(everywhere, SOL_SOCKET, SO_TYPE), SOCK_RAW);
  CHECK(in_group(), "the group is lost");
  CHECK_EQ(leave(filtered, group), 0);
  CHECK(in_group(), "the group was joined only once");
  CHECK_EQ(leave(filtered, group), 0);
  CHECK(!in_group(), "the group was joined more often");
  CHECK((fcntl(filtered, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");
  return scenario::finish();
}
