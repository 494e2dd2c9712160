// SPDX-License-Identifier: Apache-2.0
#include "resource/inet_socket/inet_socket.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "kernel/multicast.h"
#include "kernel/namespaces.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::find_file;
using testing::gather_own_files;
using testing::restore_record;
using testing::RoundTrip;

constexpr int kCapNetAdmin = 12;

kernel::InetAddress loopback(int port = 0) {
  return {.bytes = {127, 0, 0, 1}, .port = static_cast<std::uint16_t>(port)};
}

UniqueFd bound(int type, int port = 0) {
  UniqueFd fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  const kernel::InetSocketAddress address(loopback(port));
  EXPECT_EQ(::bind(fd.get(), address.get(), address.length), 0);
  return fd;
}

kernel::InetSocketState state_of(int fd) {
  const auto state = kernel::inet_socket_state(fd);
  EXPECT_TRUE(state && *state);
  return **state;
}

void connect_to(int fd, const kernel::InetAddress& address) {
  const kernel::InetSocketAddress to(address);
  ASSERT_EQ(::connect(fd, to.get(), to.length), 0);
}

std::string take(int fd) {
  std::string text(1000, '\0');
  const ssize_t got = ::recv(fd, text.data(), text.size(), MSG_DONTWAIT);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

struct Connection {
  UniqueFd listener;
  UniqueFd client;
  UniqueFd server;
};

Connection make_connection() {
  Connection made;
  made.listener = bound(SOCK_STREAM);
  EXPECT_EQ(::listen(made.listener.get(), 5), 0);
  made.client = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  connect_to(made.client.get(), *state_of(made.listener.get()).local);
  made.server = UniqueFd(::accept4(made.listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return made;
}

std::optional<Obstacle> obstacle_of(int fd, TcpPolicy policy = TcpPolicy::kRefuse) {
  const OpenFileTable table = gather_own_files();
  return inet_socket_obstacle(*find_file(table, fd), table, {.tcp = policy});
}

bool may_repair() {
  const auto capable = kernel::has_capability(kCapNetAdmin);
  return capable && *capable;
}

TEST(InetAddress, LinesOfProcAreRead) {
  const auto line = kernel::parse_inet_line(
      "   0: 0100007F:1F90 0200007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0");
  ASSERT_TRUE(line);
  EXPECT_EQ(line->inode, 4711u);
  EXPECT_EQ(line->socket.state, TCP_ESTABLISHED);
  EXPECT_EQ(line->socket.local->to_string(), "127.0.0.1:8080");
  EXPECT_EQ(line->socket.remote->to_string(), "127.0.0.2:80");
  for (const char* const bad :
       {"", "sl local", " 0: 0100007F:1F90", " 0: 0100007F 0200007F:0050 01", " 0: x:1 y:2 01"}) {
    EXPECT_FALSE(kernel::parse_inet_line(bad)) << bad;
  }
}

TEST(InetAddress, AMappedAddressIsTheSameAsThePlainOne) {
  kernel::InetAddress mapped{.v6 = true, .bytes = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1}, .port = 7};
  EXPECT_EQ(mapped.unmapped(), loopback(7));
  EXPECT_TRUE(mapped.is_loopback());
  EXPECT_TRUE((kernel::InetAddress{.v6 = true}).is_any());
  EXPECT_FALSE(loopback().is_any());
}

TEST(InetPeer, TheEndsOfAConnectionFindEachOther) {
  const Connection connection = make_connection();
  const OpenFileTable table = gather_own_files();
  EXPECT_EQ(find_inet_peer(*find_file(table, connection.client.get()), table),
            find_file(table, connection.server.get()));
  EXPECT_EQ(find_inet_peer(*find_file(table, connection.listener.get()), table), nullptr);
}

TEST(InetObstacle, AConnectionOutsideIsNamedWithItsAddress) {
  Connection connection = make_connection();
  const std::string remote = state_of(connection.client.get()).remote->to_string();
  const testing::Child child;  // has the server's end
  connection.server.reset();
  const auto refused = obstacle_of(connection.client.get());
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->code, Errc::kExternalPeer);
  EXPECT_NE(refused->why.find(remote), std::string::npos) << refused->why;
  EXPECT_FALSE(obstacle_of(connection.client.get(), TcpPolicy::kClose));
}

TEST(InetObstacle, ConnectionsThatWaitAreRefused) {
  const UniqueFd listener = bound(SOCK_STREAM);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  EXPECT_FALSE(obstacle_of(listener.get()));
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  connect_to(client.get(), *state_of(listener.get()).local);
  OpenFileTable table = gather_own_files();
  find_file(table, client.get())->inet_socket.reset();  // as if it were not in the tree
  const auto refused = inet_socket_obstacle(*find_file(table, listener.get()), table, {});
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->why.find("1 connections from outside"), std::string::npos) << refused->why;
  EXPECT_FALSE(inet_socket_obstacle(*find_file(table, listener.get()), table, {.tcp = TcpPolicy::kClose}));
}

TEST(InetObstacle, AConnectionThatNobodyAcceptedMayHoldNoBytes) {
  const UniqueFd listener = bound(SOCK_STREAM);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  connect_to(client.get(), *state_of(listener.get()).local);
  EXPECT_FALSE(obstacle_of(listener.get()));
  EXPECT_FALSE(obstacle_of(client.get()));
  ASSERT_EQ(::send(client.get(), "hello", 5, 0), 5);
  EXPECT_FALSE(obstacle_of(listener.get()));
  const auto refused = obstacle_of(client.get());
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->why.find("5 bytes"), std::string::npos) << refused->why;
  EXPECT_FALSE(obstacle_of(client.get(), TcpPolicy::kClose));
}

TEST(InetSocket, ConnectionsThatWaitAreMadeAgain) {
  UniqueFd listener = bound(SOCK_STREAM);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  connect_to(client.get(), *state_of(listener.get()).local);
  const auto from = *state_of(client.get()).local;
  RoundTrip trip;
  const auto saved = trip.save({client.get(), listener.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  listener.reset();
  client.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const UniqueFd accepted(::accept4(trip.fd(1), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted);
  EXPECT_EQ(*state_of(accepted.get()).remote, from);
  ASSERT_EQ(::send(trip.fd(0), "hello", 5, 0), 5);
  EXPECT_EQ(take(accepted.get()), "hello");
}

TEST(InetSocket, MulticastGroupsAreJoinedAgain) {
  UniqueFd fd = bound(SOCK_DGRAM);
  const kernel::MulticastGroup group{.address = {.bytes = {239, 255, 77, 5}},
                                     .interface = 0,
                                     .interface_name = "lo",
                                     .include = false,
                                     .sources = {{.bytes = {127, 0, 0, 9}}}};
  const auto joined = kernel::join_group(fd.get(), group);
  if (!joined) GTEST_SKIP() << joined.error().to_string();
  RoundTrip trip;
  ASSERT_TRUE(trip.save({fd.get()}));
  fd.reset();
  ASSERT_TRUE(trip.restore());
  const auto found = kernel::joined_groups(trip.fd(0));
  ASSERT_TRUE(found);
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ((*found)[0].address, group.address);
  EXPECT_EQ((*found)[0].interface_name, "lo");
  EXPECT_FALSE((*found)[0].include);
  EXPECT_EQ((*found)[0].sources, group.sources);
}

TEST(InetSocket, ARawSocketKeepsItsProtocolAndItsPeer) {
  UniqueFd fd(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 253));
  if (!fd) GTEST_SKIP() << "takes CAP_NET_RAW";
  connect_to(fd.get(), loopback());
  RoundTrip trip;
  const auto saved = trip.save({fd.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  fd.reset();
  ASSERT_TRUE(trip.restore());
  const auto state = state_of(trip.fd(0));
  EXPECT_EQ(state.type, SOCK_RAW);
  EXPECT_EQ(state.protocol, 253);
  ASSERT_TRUE(state.remote);
  EXPECT_EQ(*state.remote, loopback());
}

TEST(InetSocket, UdpComesBackWithWhatTheTreeSent) {
  UniqueFd a = bound(SOCK_DGRAM), b = bound(SOCK_DGRAM);
  const auto address = *state_of(a.get()).local, from = *state_of(b.get()).local;
  connect_to(b.get(), address);
  ASSERT_EQ(::send(b.get(), "one", 3, 0), 3);
  ASSERT_EQ(::send(b.get(), "two", 3, 0), 3);
  RoundTrip trip;
  const auto saved = trip.save({a.get(), b.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  EXPECT_EQ(take(a.get()), "one");  // of the original
  a.reset();
  b.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(*state_of(trip.fd(0)).local, address);
  EXPECT_EQ(*state_of(trip.fd(1)).local, from);
  EXPECT_EQ(take(trip.fd(0)), "one");
  EXPECT_EQ(take(trip.fd(0)), "two");
  ASSERT_EQ(::send(trip.fd(1), "three", 5, 0), 5);
  EXPECT_EQ(take(trip.fd(0)), "three");
}

TEST(InetSocket, APortThatSomebodyTookIsAnError) {
  UniqueFd a = bound(SOCK_DGRAM);
  RoundTrip trip;
  ASSERT_TRUE(trip.save({a.get()}));
  const auto restored = trip.restore();
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), Errc::kExternalPeer);
}

TEST(InetSocket, AListenerServesAgain) {
  UniqueFd listener = bound(SOCK_STREAM);
  ASSERT_EQ(::listen(listener.get(), 9), 0);
  const auto address = *state_of(listener.get()).local;
  RoundTrip trip;
  ASSERT_TRUE(trip.save({listener.get()}));
  listener.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  connect_to(client.get(), address);
  EXPECT_GE(UniqueFd(::accept(trip.fd(0), nullptr, nullptr)).get(), 0);
}

TEST(InetSocket, ARunningConnectionIsReadWithoutATrace) {
  if (!may_repair()) GTEST_SKIP() << "needs CAP_NET_ADMIN";
  const Connection connection = make_connection();
  const int on = 1;
  ASSERT_EQ(::setsockopt(connection.client.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
  ASSERT_EQ(::send(connection.server.get(), "unread", 6, 0), 6);
  const auto read = kernel::read_tcp_connection(connection.client.get());
  ASSERT_TRUE(read) << read.error().to_string();
  EXPECT_EQ(read->unread.size(), 6u);
  EXPECT_EQ(take(connection.client.get()), "unread");
  ASSERT_EQ(::send(connection.client.get(), "on", 2, 0), 2);
  EXPECT_EQ(take(connection.server.get()), "on");
  int reuse = 0;
  socklen_t length = sizeof reuse;
  EXPECT_EQ(::getsockopt(connection.client.get(), SOL_SOCKET, SO_REUSEADDR, &reuse, &length), 0);
  EXPECT_EQ(reuse, 1);
}

TEST(InetSocket, AConnectionInsideGoesOn) {
  if (!may_repair()) GTEST_SKIP() << "needs CAP_NET_ADMIN";
  Connection connection = make_connection();
  const auto client = *state_of(connection.client.get()).local;
  ASSERT_EQ(::send(connection.client.get(), "there", 5, 0), 5);
  ASSERT_EQ(::send(connection.server.get(), "back", 4, 0), 4);
  RoundTrip trip;
  const auto saved = trip.save({connection.client.get(), connection.server.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  // Their end is silent, as that of a program that is killed after its checkpoint.
  ASSERT_TRUE(kernel::enter_repair(connection.client.get()) && kernel::enter_repair(connection.server.get()));
  connection = {};
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(*state_of(trip.fd(0)).local, client);
  EXPECT_EQ(take(trip.fd(1)), "there");
  EXPECT_EQ(take(trip.fd(0)), "back");
  ASSERT_EQ(::send(trip.fd(0), "more", 4, 0), 4);
  EXPECT_EQ(take(trip.fd(1)), "more");
}

TEST(InetSocket, AConnectionThatIsGivenUpIsReset) {
  Connection connection = make_connection();
  const testing::Child child;
  connection.server.reset();
  RoundTrip trip;
  const auto saved = trip.save({connection.client.get()}, {.tcp = TcpPolicy::kClose});
  ASSERT_TRUE(saved) << saved.error().to_string();
  ASSERT_TRUE(trip.restore());
  char byte = 0;
  EXPECT_EQ(::recv(trip.fd(0), &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_EQ(::send(trip.fd(0), &byte, 1, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPIPE);
}

TEST(InetSocket, HostileRecordsAreRefused) {
  const auto refused = [](const InetSocketRecord& record) {
    const auto restored = restore_record(record, kind::kInetSocket);
    return !restored && restored.error().code() == Errc::kBadImage;
  };
  const InetAddressRecord address = InetAddressRecord::of(loopback(1));
  EXPECT_TRUE(refused({.v6 = true, .local = address}));
  EXPECT_TRUE(refused({.role = InetRole::kListening, .local = address}));
  EXPECT_TRUE(refused({.tcp = true, .role = InetRole::kListening}));
  EXPECT_TRUE(refused({.tcp = true, .role = InetRole::kConnection, .local = address, .remote = address}));
  EXPECT_TRUE(refused({.role = InetRole::kConnected, .local = address}));
  EXPECT_TRUE(refused({.tcp = true, .queue = {DatagramRecord{.sender = ObjRef(1)}}}));
  EXPECT_TRUE(refused({.tcp = true, .groups = {MulticastGroupRecord{.interface = "lo"}}}));
  EXPECT_TRUE(refused({.tcp = true, .raw = true}));
  EXPECT_TRUE(refused({.protocol = 132}));
  EXPECT_TRUE(refused({.tcp = true, .role = InetRole::kUnaccepted, .local = address}));
  EXPECT_TRUE(refused({.tcp = true, .role = InetRole::kUnaccepted, .local = address, .remote = address, .turn = ~0u}));
}

}  // namespace
}  // namespace stasis
