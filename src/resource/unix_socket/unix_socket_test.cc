// SPDX-License-Identifier: Apache-2.0
#include "resource/unix_socket/unix_socket.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "kernel/socket_queue.h"
#include "kernel/unix_name.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::Child;
using testing::find_file;
using testing::gather_own_files;
using testing::restore_record;
using testing::RoundTrip;

struct Pair {
  UniqueFd a;
  UniqueFd b;
};

Pair make_pair(int type) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

UniqueFd make_socket(int type) { return UniqueFd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0)); }

void bind_to(const UniqueFd& fd, const std::string& name) {
  const auto address = kernel::UnixAddress::of(name);
  ASSERT_EQ(::bind(fd.get(), address->get(), address->length), 0);
}

void connect_to(const UniqueFd& fd, const std::string& name) {
  const auto address = kernel::UnixAddress::of(name);
  ASSERT_EQ(::connect(fd.get(), address->get(), address->length), 0);
}

UniqueFd make_listener(const std::string& name) {
  UniqueFd fd = make_socket(SOCK_STREAM);
  bind_to(fd, name);
  EXPECT_EQ(::listen(fd.get(), 5), 0);
  return fd;
}

std::string take(int fd) {
  std::string text(1000, '\0');
  const ssize_t got = ::recv(fd, text.data(), text.size(), MSG_DONTWAIT);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

void put(int fd, std::string_view text, std::vector<int> files = {}) {
  const auto sent =
      kernel::send_message(fd, {.bytes = std::as_bytes(std::span(text)), .files = files, .destination = {}});
  ASSERT_TRUE(sent) << sent.error().to_string();
}

std::optional<Obstacle> obstacle_of(int fd, UnixExternalPolicy policy = UnixExternalPolicy::kRefuse) {
  const OpenFileTable table = gather_own_files();
  return unix_socket_obstacle(*find_file(table, fd), table, {.unix_external = policy});
}

TEST(UnixRelation, TheEndsOfAPairAreLinked) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    const Pair pair = make_pair(type);
    const OpenFileTable table = gather_own_files();
    const UnixRelation relation = find_unix_relation(*find_file(table, pair.a.get()), table);
    EXPECT_EQ(relation.role, UnixRole::kLinked);
    EXPECT_EQ(relation.peer, find_file(table, pair.b.get()));
    EXPECT_FALSE(relation.outside);
  }
}

TEST(UnixRelation, AClosedFarEndIsNotOutside) {
  Pair pair = make_pair(SOCK_STREAM);
  pair.b.reset();
  const OpenFileTable table = gather_own_files();
  const UnixRelation relation = find_unix_relation(*find_file(table, pair.a.get()), table);
  EXPECT_EQ(relation.role, UnixRole::kLinked);
  EXPECT_EQ(relation.peer, nullptr);
  EXPECT_FALSE(relation.outside);
}

TEST(UnixGather, FilesInFlightArePartOfTheTable) {
  const Pair carrier = make_pair(SOCK_DGRAM);
  Pair sent = make_pair(SOCK_STREAM);
  put(sent.a.get(), "inside");
  put(carrier.a.get(), "here", {sent.b.get(), carrier.b.get()});
  sent.b.reset();
  const OpenFileTable table = gather_own_files();
  const OpenFile* const file = find_file(table, carrier.b.get());
  ASSERT_EQ(file->queue.size(), 1u);
  ASSERT_EQ(file->queue[0].files.size(), 2u);
  const OpenFile* const in_flight = file->queue[0].files[0];
  EXPECT_EQ(in_flight->carrier, file);
  EXPECT_EQ(in_flight->queue.size(), 1u);
  EXPECT_EQ(file->queue[0].files[1], file);
  const OpenFile* const end = find_file(table, sent.a.get());
  EXPECT_EQ(find_unix_relation(*end, table).peer, in_flight);
  const Obstacle told = in_flight->obstacle(Errc::kRefused, "why");
  EXPECT_EQ(told.fd, carrier.b.get());
  EXPECT_NE(told.object.find(" in flight in socket:["), std::string::npos) << told.object;
}

TEST(UnixObstacle, APeerOutsideIsNamed) {
  Pair pair = make_pair(SOCK_STREAM);
  const Child child;  // has both ends
  ASSERT_GT(pair.a.get(), 2);
  const auto shared = obstacle_of(pair.a.get());
  ASSERT_TRUE(shared);
  EXPECT_EQ(shared->code, Errc::kExternalPeer);
  pair.b.reset();
  const auto found = obstacle_of(pair.a.get());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->code, Errc::kExternalPeer);
  EXPECT_NE(found->why.find(fmt::format("pid {} ", child.pid().value())), std::string::npos) << found->why;
  EXPECT_FALSE(obstacle_of(pair.a.get(), UnixExternalPolicy::kClose));
  const auto nameless = obstacle_of(pair.a.get(), UnixExternalPolicy::kReconnect);
  ASSERT_TRUE(nameless);
  EXPECT_EQ(nameless->help, "--unix-external close");
}

TEST(UnixObstacle, DataOfAConnectionThatNobodyAcceptedIsRefused) {
  const sample::ScratchDir dir;
  const UniqueFd listener = make_listener(dir / "listener");
  const UniqueFd client = make_socket(SOCK_STREAM);
  connect_to(client, dir / "listener");
  EXPECT_FALSE(obstacle_of(client.get()));
  EXPECT_FALSE(obstacle_of(listener.get()));
  put(client.get(), "too early");
  EXPECT_TRUE(obstacle_of(client.get()));
}

TEST(UnixObstacle, AConnectionFromOutsideThatWaitsIsRefused) {
  const sample::ScratchDir dir;
  const UniqueFd listener = make_listener(dir / "listener");
  const Child child([&] {
    static UniqueFd client;
    client = make_socket(SOCK_STREAM);
    const auto address = kernel::UnixAddress::of(dir / "listener");
    return ::connect(client.get(), address->get(), address->length) == 0;
  });
  ASSERT_TRUE(child.ready());
  EXPECT_TRUE(obstacle_of(listener.get()));
}

TEST(UnixSocket, APairComesBackWithQueues) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    Pair pair = make_pair(type);
    put(pair.a.get(), "there");
    put(pair.b.get(), "back");
    RoundTrip trip;
    const auto saved = trip.save({pair.a.get(), pair.b.get()});
    ASSERT_TRUE(saved) << saved.error().to_string();
    EXPECT_EQ(take(pair.b.get()), "there");  // of the original
    pair = {};
    const auto restored = trip.restore();
    ASSERT_TRUE(restored) << restored.error().to_string();
    EXPECT_GE(trip.fd(0), RoundTrip::kParkingBase);
    EXPECT_EQ(take(trip.fd(1)), "there");
    EXPECT_EQ(take(trip.fd(0)), "back");
    put(trip.fd(0), "more");
    EXPECT_EQ(take(trip.fd(1)), "more");
  }
}

TEST(UnixSocket, AClosedFarEndIsAtItsEndOnceTheHashIsCleared) {
  Pair pair = make_pair(SOCK_STREAM);
  put(pair.b.get(), "last words");
  pair.b.reset();
  RoundTrip trip;
  ASSERT_TRUE(trip.save({pair.a.get()}));
  ASSERT_TRUE(trip.restore());
  const UniqueFd task = trip.keep(0);
  trip.objects().clear();
  EXPECT_EQ(take(task.get()), "last words");
  char byte = 0;
  EXPECT_EQ(::recv(task.get(), &byte, 1, MSG_DONTWAIT), 0);
}

TEST(UnixSocket, ADeadFileOfAListenerIsReplaced) {
  const sample::ScratchDir dir;
  const std::string path = dir / "listener";
  UniqueFd listener = make_listener(path);
  RoundTrip trip;
  ASSERT_TRUE(trip.save({listener.get()}));
  const auto too_early = trip.restore();
  ASSERT_FALSE(too_early);
  EXPECT_EQ(too_early.error().code(), Errc::kFileChanged);
  listener.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const UniqueFd client = make_socket(SOCK_STREAM);
  connect_to(client, path);
  EXPECT_GE(UniqueFd(::accept(trip.fd(0), nullptr, nullptr)).get(), 0);
}

TEST(UnixSocket, SomethingElseInPlaceOfItsFileStays) {
  const sample::ScratchDir dir;
  const std::string path = dir / "listener";
  UniqueFd listener = make_listener(path);
  RoundTrip trip;
  ASSERT_TRUE(trip.save({listener.get()}));
  listener.reset();
  ASSERT_EQ(::unlink(path.c_str()), 0);
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  const auto restored = trip.restore();
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), Errc::kFileChanged);
  EXPECT_EQ(::rmdir(path.c_str()), 0);
}

TEST(UnixSocket, AnEndOutsideIsClosedWhereThatIsWanted) {
  Pair pair = make_pair(SOCK_STREAM);
  const Child child;
  put(pair.b.get(), "unread");
  pair.b.reset();
  RoundTrip trip;
  EXPECT_FALSE(trip.save({pair.a.get()}));
  RoundTrip wanted;
  const auto saved = wanted.save({pair.a.get()}, {.unix_external = UnixExternalPolicy::kClose});
  ASSERT_TRUE(saved) << saved.error().to_string();
  ASSERT_TRUE(wanted.restore());
  const UniqueFd task = wanted.keep(0);
  wanted.objects().clear();
  EXPECT_EQ(take(task.get()), "unread");
  char byte = 0;
  EXPECT_EQ(::recv(task.get(), &byte, 1, MSG_DONTWAIT), 0);
  EXPECT_EQ(::send(task.get(), &byte, 1, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPIPE);
}

TEST(UnixSocket, AServerOutsideIsConnectedAgainWhereThatIsWanted) {
  const sample::ScratchDir dir;
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    const std::string path = dir / std::to_string(type);
    // The server is the child's alone.
    UniqueFd client = make_socket(type);
    const Child child([&] {
      const UniqueFd server = make_socket(type);
      bind_to(server, path);
      if (type == SOCK_STREAM && ::listen(server.get(), 5) != 0) return false;
      static int kept = -1;
      kept = ::dup(server.get());
      return kept >= 0;
    });
    ASSERT_TRUE(child.ready());
    connect_to(client, path);
    EXPECT_TRUE(obstacle_of(client.get()));
    RoundTrip trip;
    const auto saved = trip.save({client.get()}, {.unix_external = UnixExternalPolicy::kReconnect});
    ASSERT_TRUE(saved) << saved.error().to_string();
    client.reset();
    const auto restored = trip.restore();
    ASSERT_TRUE(restored) << restored.error().to_string();
    EXPECT_EQ(*kernel::unix_peer_name_of(trip.fd(0)), path);
    put(trip.fd(0), "hello again");
  }
}

TEST(UnixSocket, HostileRecordsAreRefused) {
  const auto refused = [](const UnixSocketRecord& record) {
    const auto restored = restore_record(record, kind::kUnixSocket);
    return !restored && (restored.error().code() == Errc::kBadImage || restored.error().code() == Errc::kNotFound);
  };
  EXPECT_TRUE(refused({.role = UnixRole::kLinked, .link = ObjRef(7)}));
  EXPECT_TRUE(refused({.role = UnixRole::kLinked, .link = ObjRef(1)}));
  EXPECT_TRUE(refused({.side = 2}));
  EXPECT_TRUE(refused({.name = "", .place = UnixPlace::kFile}));
  EXPECT_TRUE(refused({.name = "path", .place = UnixPlace::kAbstract}));
  EXPECT_TRUE(refused({.queue = {UnixMessageRecord{}}}));
  EXPECT_TRUE(refused({.options = {{.level = SOL_SOCKET, .name = SO_ERROR, .value = std::vector<std::byte>(4)}}}));
  EXPECT_TRUE(refused({.options = {{.level = SOL_SOCKET, .name = SO_MARK, .value = std::vector<std::byte>(65)}}}));
}

}  // namespace
}  // namespace stasis
