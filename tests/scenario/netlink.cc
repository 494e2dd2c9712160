// SPDX-License-Identifier: Apache-2.0
// Netlink sockets: port, groups, options and filter stay, questions are answered, events come.
// scenario: ports
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "scenario.h"

namespace {

int bound(int protocol, unsigned groups) {
  const int fd = SETUP(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  sockaddr_nl name{};
  name.nl_family = AF_NETLINK;
  name.nl_groups = groups;
  SETUP(bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name));
  return fd;
}

sockaddr_nl name_of(int fd) {
  sockaddr_nl name{};
  socklen_t length = sizeof name;
  getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length);
  return name;
}

// How many network interfaces there are; -1: no answer.
int count_links(int fd) {
  struct {
    nlmsghdr header;
    rtgenmsg body;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.rtgen_family = AF_UNSPEC;
  if (send(fd, &request, sizeof request, 0) != static_cast<ssize_t>(sizeof request)) return -1;
  alignas(nlmsghdr) static std::array<char, 65536> answer;
  for (int links = 0;;) {
    pollfd poll_fd{fd, POLLIN, 0};
    if (poll(&poll_fd, 1, 120000) != 1) return -1;
    auto rest = recv(fd, answer.data(), answer.size(), 0);
    for (auto* header = reinterpret_cast<nlmsghdr*>(answer.data()); NLMSG_OK(header, rest);
         header = NLMSG_NEXT(header, rest)) {
      if (header->nlmsg_type == NLMSG_DONE) return links;
      if (header->nlmsg_type != RTM_NEWLINK || header->nlmsg_pid != name_of(fd).nl_pid) return -1;
      ++links;
    }
  }
}

int option(int fd, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  getsockopt(fd, SOL_NETLINK, name, &value, &length);
  return value;
}

}  // namespace

int main() {
  const int route = bound(NETLINK_ROUTE, 0), events = bound(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_IPV4_IFADDR);
  const int group = RTNLGRP_NEXTHOP, on = 1;  // beyond the 32 that bind(2) knows
  SETUP(setsockopt(events, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
  SETUP(setsockopt(route, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on));
  const int devices = bound(NETLINK_KOBJECT_UEVENT, 0);
  std::array<sock_filter, 1> code = {sock_filter{BPF_RET | BPF_K, 0, 0, 0}};
  const sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  SETUP(setsockopt(devices, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
  const int fresh = SETUP(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE));
  const sockaddr_nl route_name = name_of(route), events_name = name_of(events);
  const int links = count_links(route);
  CHECK(links > 0, "no interface, not even the loopback");

  scenario::ready_and_wait();

  CHECK_EQ(name_of(route).nl_pid, route_name.nl_pid);
  CHECK_EQ(name_of(events).nl_pid, events_name.nl_pid);
  CHECK_EQ(name_of(events).nl_groups, events_name.nl_groups);
  CHECK_EQ(name_of(fresh).nl_pid, 0);
  CHECK_EQ(count_links(route), links);
  CHECK_EQ(count_links(fresh), links);
  CHECK_EQ(option(route, NETLINK_EXT_ACK), 1);
  CHECK_EQ(option(events, NETLINK_EXT_ACK), 0);
  std::array<std::uint32_t, 8> memberships{};
  socklen_t length = sizeof memberships;
  CHECK_EQ(getsockopt(events, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, memberships.data(), &length), 0);
  CHECK((memberships[(group - 1) / 32] >> ((group - 1) % 32) & 1) != 0, "group %d is lost", group);
  length = 0;
  CHECK_EQ(getsockopt(devices, SOL_SOCKET, SO_GET_FILTER, nullptr, &length), 0);
  CHECK_EQ(length, 1);
  CHECK((fcntl(route, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");
  return scenario::finish();
}
