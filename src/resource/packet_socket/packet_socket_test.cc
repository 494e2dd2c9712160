// SPDX-License-Identifier: Apache-2.0
#include "resource/packet_socket/packet_socket.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include "kernel/packet_diag.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::find_file;
using testing::gather_own_files;
using testing::restore_record;
using testing::RoundTrip;

constexpr std::uint16_t kProtocol = 0x88b5;  // for experiments, IEEE 802

sockaddr_ll name_of(int fd) {
  sockaddr_ll name{};
  socklen_t length = sizeof name;
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length), 0);
  return name;
}

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  EXPECT_EQ(::getsockopt(fd, level, name, &value, &length), 0) << level << " " << name;
  return value;
}

void set(int fd, int level, int name, int value) {
  ASSERT_EQ(::setsockopt(fd, level, name, &value, sizeof value), 0) << level << " " << name;
}

std::uint64_t inode_of(int fd) {
  struct ::stat stat{};
  EXPECT_EQ(::fstat(fd, &stat), 0);
  return stat.st_ino;
}

class PacketSocket : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fd_) GTEST_SKIP() << "no CAP_NET_RAW";
    if (::if_nametoindex("lo") == 0) GTEST_SKIP() << "no loopback interface";
  }
  void bind(std::uint16_t protocol) {
    sockaddr_ll name{};
    name.sll_family = AF_PACKET;
    name.sll_protocol = htons(protocol);
    name.sll_ifindex = static_cast<int>(::if_nametoindex("lo"));
    ASSERT_EQ(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
  }
  void save_and_restore() {
    const auto saved = trip_.save({fd_.get()});
    ASSERT_TRUE(saved) << saved.error().to_string();
    fd_.reset();
    const auto restored = trip_.restore();
    ASSERT_TRUE(restored) << restored.error().to_string();
  }
  std::optional<Obstacle> obstacle(Hold hold = Hold::kTake) {
    const OpenFileTable table = gather_own_files(hold);
    const OpenFile& file = *find_file(table, fd_.get());
    EXPECT_TRUE(claims_packet_socket(file, table));
    return packet_socket_obstacle(file, table, {});
  }

  UniqueFd fd_{::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  RoundTrip trip_;
};

TEST_F(PacketSocket, ComesBackWithItsNameOptionsAndMemberships) {
  set(fd_.get(), SOL_PACKET, PACKET_VERSION, TPACKET_V2);
  set(fd_.get(), SOL_PACKET, PACKET_AUXDATA, 1);
  set(fd_.get(), SOL_PACKET, PACKET_COPY_THRESH, 77);
  set(fd_.get(), SOL_PACKET, PACKET_VNET_HDR, 1);
  bind(kProtocol);
  packet_mreq group{};
  group.mr_ifindex = static_cast<int>(::if_nametoindex("lo"));
  group.mr_type = PACKET_MR_MULTICAST;
  group.mr_alen = 6;
  group.mr_address[0] = 1;
  group.mr_address[5] = 9;
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(::setsockopt(fd_.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &group, sizeof group), 0);
  }
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  ASSERT_NO_FATAL_FAILURE(save_and_restore());
  const sockaddr_ll name = name_of(trip_.fd(0));
  EXPECT_EQ(name.sll_protocol, htons(kProtocol));
  EXPECT_EQ(name.sll_ifindex, static_cast<int>(::if_nametoindex("lo")));
  EXPECT_EQ(option(trip_.fd(0), SOL_SOCKET, SO_TYPE), SOCK_RAW);
  EXPECT_EQ(option(trip_.fd(0), SOL_PACKET, PACKET_VERSION), TPACKET_V2);
  EXPECT_EQ(option(trip_.fd(0), SOL_PACKET, PACKET_AUXDATA), 1);
  EXPECT_EQ(option(trip_.fd(0), SOL_PACKET, PACKET_VNET_HDR), 1);
  EXPECT_EQ(option(trip_.fd(0), SOL_PACKET, PACKET_ORIGDEV), 0);
  EXPECT_EQ(::fcntl(trip_.fd(0), F_GETFL), flags);
  const auto state = kernel::packet_socket_state(inode_of(trip_.fd(0)));
  ASSERT_TRUE(state && *state);
  EXPECT_EQ((*state)->copy_threshold, 77u);
  ASSERT_EQ((*state)->memberships.size(), 1u);
  const kernel::PacketMembership& membership = (*state)->memberships.front();
  EXPECT_EQ(membership.count, 2u);
  EXPECT_EQ(membership.address, std::vector<std::byte>({std::byte{1}, {}, {}, {}, {}, std::byte{9}}));
}

TEST_F(PacketSocket, OneWithoutANameComesBackSo) {
  ASSERT_NO_FATAL_FAILURE(save_and_restore());
  EXPECT_EQ(name_of(trip_.fd(0)).sll_protocol, 0);
  EXPECT_EQ(name_of(trip_.fd(0)).sll_ifindex, 0);
}

TEST_F(PacketSocket, ALockedFilterIsLockedAgain) {
  sock_filter none{BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program{.len = 1, .filter = &none};
  ASSERT_EQ(::setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
  set(fd_.get(), SOL_SOCKET, SO_LOCK_FILTER, 1);
  ASSERT_NO_FATAL_FAILURE(save_and_restore());
  socklen_t length = 0;
  EXPECT_EQ(::getsockopt(trip_.fd(0), SOL_SOCKET, SO_GET_FILTER, nullptr, &length), 0);
  EXPECT_EQ(length, 1u);
  EXPECT_EQ(::setsockopt(trip_.fd(0), SOL_SOCKET, SO_DETACH_FILTER, nullptr, 0), -1);
}

TEST_F(PacketSocket, ARingAndAFanoutGroupAreObstacles) {
  EXPECT_FALSE(obstacle());
  EXPECT_FALSE(obstacle(Hold::kDont));
  const tpacket_req request{.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
  ASSERT_EQ(::setsockopt(fd_.get(), SOL_PACKET, PACKET_TX_RING, &request, sizeof request), 0);
  auto refused = obstacle();
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->why.find("ring"), std::string::npos) << refused->why;
  fd_.reset(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  bind(kProtocol);
  set(fd_.get(), SOL_PACKET, PACKET_FANOUT, 815 | PACKET_FANOUT_HASH << 16);
  refused = obstacle(Hold::kDont);
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->why.find("fanout"), std::string::npos) << refused->why;
}

TEST(PacketSocketRecords, HostileOnesAreRefused) {
  EXPECT_FALSE(restore_record(PacketSocketRecord{.type = SOCK_STREAM}, kind::kPacket));
  EXPECT_FALSE(restore_record(PacketSocketRecord{.type = SOCK_RAW, .interface = "no such interface"}, kind::kPacket));
  EXPECT_FALSE(restore_record(PacketSocketRecord{.type = SOCK_RAW, .memberships = {{.interface = "lo", .count = ~0u}}},
                              kind::kPacket));
}

}  // namespace
}  // namespace stasis
