// SPDX-License-Identifier: Apache-2.0
#include "resource/netlink_socket/netlink_socket.h"

#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cstring>

#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::find_file;
using testing::gather_own_files;
using testing::restore_record;
using testing::RoundTrip;

UniqueFd bound(int protocol, std::uint32_t groups = 0) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  const sockaddr_nl name{.nl_family = AF_NETLINK, .nl_pad = 0, .nl_pid = 0, .nl_groups = groups};
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
  return fd;
}

sockaddr_nl name_of(int fd) {
  sockaddr_nl name{};
  socklen_t length = sizeof name;
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length), 0);
  return name;
}

void ask_for_links(int fd) {
  struct {
    nlmsghdr header;
    rtgenmsg body;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.rtgen_family = AF_UNSPEC;
  ASSERT_EQ(::send(fd, &request, sizeof request, 0), static_cast<ssize_t>(sizeof request));
}

std::optional<Obstacle> obstacle_of(int fd, Hold hold = Hold::kTake) {
  const OpenFileTable table = gather_own_files(hold);
  const OpenFile& file = *find_file(table, fd);
  EXPECT_TRUE(claims_netlink_socket(file, table));
  return netlink_socket_obstacle(file, table, {});
}

TEST(NetlinkSocket, LinesOfProcAreRead) {
  const auto line = parse_netlink_line("00000000698556ec 4   42 00000011 768 0 1     2        0        4711    ");
  ASSERT_TRUE(line);
  EXPECT_EQ(line->protocol, 4);
  EXPECT_EQ(line->unread, 768u);
  EXPECT_TRUE(line->answering);
  EXPECT_EQ(line->inode, 4711u);
  for (const char* const bad :
       {"", "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode", "0 4 42 0 768", "0 4 4 0 x 0 0 2 0 1"}) {
    EXPECT_FALSE(parse_netlink_line(bad)) << bad;
  }
}

TEST(NetlinkSocket, ComesBackUnderItsPortInItsGroups) {
  UniqueFd fd = bound(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_IPV4_ROUTE);
  const int on = 1;
  ASSERT_EQ(::setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on), 0);
  const sockaddr_nl before = name_of(fd.get());
  RoundTrip trip;
  const auto saved = trip.save({fd.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  fd.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const sockaddr_nl after = name_of(trip.fd(0));
  EXPECT_EQ(after.nl_pid, before.nl_pid);
  EXPECT_EQ(after.nl_groups, before.nl_groups);
  int value = 0;
  socklen_t length = sizeof value;
  EXPECT_EQ(::getsockopt(trip.fd(0), SOL_NETLINK, NETLINK_EXT_ACK, &value, &length), 0);
  EXPECT_EQ(value, 1);
}

TEST(NetlinkSocket, UnreadMessagesAreAnObstacle) {
  const UniqueFd fd = bound(NETLINK_ROUTE);
  EXPECT_FALSE(obstacle_of(fd.get()));
  EXPECT_FALSE(obstacle_of(fd.get(), Hold::kDont));
  ask_for_links(fd.get());
  const auto refused = obstacle_of(fd.get());
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->why.find("unread"), std::string::npos) << refused->why;
}

TEST(NetlinkSocket, FamiliesWithMoreBehindThemAreNamed) {
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!fd) GTEST_SKIP() << "no netfilter here";
  const auto refused = obstacle_of(fd.get());
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->why.find("family 12"), std::string::npos) << refused->why;
}

TEST(NetlinkSocket, AnImageGetsNoOtherFamilies) {
  EXPECT_FALSE(restore_record(NetlinkSocketRecord{.type = SOCK_RAW, .protocol = NETLINK_NETFILTER}, kind::kNetlink));
  EXPECT_FALSE(restore_record(NetlinkSocketRecord{.type = SOCK_STREAM, .protocol = NETLINK_ROUTE}, kind::kNetlink));
  EXPECT_FALSE(restore_record(NetlinkSocketRecord{.type = SOCK_RAW, .protocol = NETLINK_ROUTE, .groups = {9999}},
                              kind::kNetlink));
}

// Those of generic netlink are numbered by the running system: a number from another one is somebody else's group.
TEST(NetlinkSocket, AnImageGetsNoGroupsThatAreNumberedAsTheyCome) {
  constexpr std::uint32_t kController = 16;
  EXPECT_TRUE(restore_record(NetlinkSocketRecord{.type = SOCK_RAW, .protocol = NETLINK_GENERIC}, kind::kNetlink));
  EXPECT_FALSE(restore_record(
      NetlinkSocketRecord{.type = SOCK_RAW, .protocol = NETLINK_GENERIC, .groups = {kController}}, kind::kNetlink));
}

}  // namespace
}  // namespace stasis
