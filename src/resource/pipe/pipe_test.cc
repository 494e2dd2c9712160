// SPDX-License-Identifier: Apache-2.0
#include "resource/pipe/pipe.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <array>
#include <numeric>

#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::Child;
using testing::find_file;
using testing::gather_own_files;
using testing::RoundTrip;

struct Ends {
  UniqueFd read_end;
  UniqueFd write_end;
};

Ends make_pipe(int flags = 0) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::pipe2(ends.data(), flags | O_CLOEXEC), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void put(int fd, std::string_view text) {
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string take(int fd, std::size_t bytes = 1 << 20) {
  std::string text(bytes, '\0');
  const ssize_t got = ::read(fd, text.data(), text.size());
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

PipeContents contents_of(const Ends& pipe, PipeMode mode = PipeMode::kStream) {
  auto contents = copy_contents(pipe.read_end.get(), mode);
  EXPECT_TRUE(contents) << contents.error().to_string();
  return *std::move(contents);
}

TEST(PipeContents, AnEmptyPipeHasNone) { EXPECT_TRUE(contents_of(make_pipe()).bytes.empty()); }

TEST(PipeContents, AStreamIsCopiedAndStays) {
  const Ends pipe = make_pipe();
  put(pipe.write_end.get(), "hello ");
  put(pipe.write_end.get(), "world");
  const PipeContents contents = contents_of(pipe);
  EXPECT_EQ(text_of(contents.bytes), "hello world");
  EXPECT_TRUE(contents.packets.empty());
  EXPECT_EQ(take(pipe.read_end.get()), "hello world");
}

TEST(PipeContents, AFullPipeOfAnySizeIsCopied) {
  for (const int capacity : {4096, 65536, 1048576}) {
    const Ends pipe = make_pipe(O_NONBLOCK);
    ASSERT_EQ(::fcntl(pipe.write_end.get(), F_SETPIPE_SZ, capacity), capacity);
    std::string text(static_cast<std::size_t>(capacity), 'x');
    std::iota(text.begin(), text.end(), '\1');
    put(pipe.write_end.get(), text);
    EXPECT_EQ(text_of(contents_of(pipe).bytes), text) << capacity;
    EXPECT_TRUE(contents_of(pipe).packets.empty());
  }
}

TEST(PipeContents, PacketsKeepTheirBoundaries) {
  const Ends pipe = make_pipe(O_DIRECT);
  for (const std::string_view packet : {"one", "three", "x", "a much longer packet"}) put(pipe.write_end.get(), packet);
  const PipeContents contents = contents_of(pipe, PipeMode::kPacket);
  EXPECT_EQ(text_of(contents.bytes), "onethreexa much longer packet");
  EXPECT_EQ(contents.packets, (std::vector<std::uint32_t>{3, 5, 1, 20}));
}

TEST(PipeContents, PacketsAreSeenEvenIfNobodyWritesPacketsAnyMore) {
  const Ends pipe = make_pipe(O_DIRECT);
  put(pipe.write_end.get(), "a single packet");
  ASSERT_EQ(::fcntl(pipe.write_end.get(), F_SETFL, 0), 0);
  EXPECT_EQ(contents_of(pipe).packets, std::vector<std::uint32_t>{15});
}

TEST(PipeContents, ALastPacketOfOneByteIsAPacket) {
  const Ends pipe = make_pipe(O_DIRECT);
  put(pipe.write_end.get(), "abc");
  put(pipe.write_end.get(), "d");
  EXPECT_EQ(contents_of(pipe, PipeMode::kPacket).packets, (std::vector<std::uint32_t>{3, 1}));
}

TEST(PipeContents, AStreamIsNoPacketThoughItsWriterSendsPacketsNow) {
  const Ends pipe = make_pipe();
  put(pipe.write_end.get(), "abcd");
  ASSERT_EQ(::fcntl(pipe.write_end.get(), F_SETFL, O_DIRECT), 0);
  EXPECT_TRUE(contents_of(pipe, PipeMode::kPacket).packets.empty());
}

TEST(PipeContents, CanBeCopiedByTheWriteEndAlone) {
  const Ends pipe = make_pipe();
  put(pipe.write_end.get(), "seen from behind");
  const auto contents = copy_contents(pipe.write_end.get(), PipeMode::kStream);
  ASSERT_TRUE(contents) << contents.error().to_string();
  EXPECT_EQ(text_of(contents->bytes), "seen from behind");
}

TEST(PipeContents, ArePutBackAsTheyWere) {
  const Ends pipe = make_pipe(O_DIRECT | O_NONBLOCK);
  put(pipe.write_end.get(), "one");
  put(pipe.write_end.get(), "two");
  const Ends other = make_pipe(O_NONBLOCK);
  const auto put_back = put_contents(other.write_end.get(), contents_of(pipe, PipeMode::kPacket));
  ASSERT_TRUE(put_back) << put_back.error().to_string();
  EXPECT_EQ(::fcntl(other.write_end.get(), F_GETFL) & O_DIRECT, 0);
  EXPECT_EQ(take(other.read_end.get(), 2), "on");  // the rest of the packet is dropped
  EXPECT_EQ(take(other.read_end.get()), "two");
}

TEST(PipeContents, HostilePacketLengthsAreRefused) {
  const Ends pipe = make_pipe(O_NONBLOCK);
  const std::vector<std::byte> bytes(5);
  for (const std::vector<std::uint32_t>& packets : {std::vector<std::uint32_t>{6}, {5, 1}, {0, 5}, {4}, {0xffffffff}}) {
    const auto put_back = put_contents(pipe.write_end.get(), {bytes, packets});
    ASSERT_FALSE(put_back);
    EXPECT_EQ(put_back.error().code(), Errc::kBadImage);
  }
}

TEST(PipePeer, BothEndsInTheTree) {
  const Ends pipe = make_pipe();
  const OpenFileTable table = gather_own_files();
  EXPECT_EQ(find_pipe_peer(*find_file(table, pipe.read_end.get()), table), PipePeer::kTree);
}

TEST(PipePeer, NobodyAtTheOtherEnd) {
  Ends pipe = make_pipe();
  pipe.write_end.reset();
  const OpenFileTable table = gather_own_files();
  EXPECT_EQ(find_pipe_peer(*find_file(table, pipe.read_end.get()), table), PipePeer::kNobody);
}

TEST(PipePeer, SomebodyOutsideIsRefusedByName) {
  Ends pipe = make_pipe();
  const Child child;
  pipe.read_end.reset();
  // Two descriptors below 3 would make it a standard stream.
  ASSERT_GT(pipe.write_end.get(), 2);
  const OpenFileTable table = gather_own_files();
  const OpenFile& file = *find_file(table, pipe.write_end.get());
  EXPECT_EQ(find_pipe_peer(file, table), PipePeer::kOutside);
  const Obstacles obstacles = collect_obstacles(table, {});
  const auto found = std::ranges::find(obstacles, pipe.write_end.get(), &Obstacle::fd);
  ASSERT_NE(found, obstacles.end());
  EXPECT_EQ(found->code, Errc::kExternalPeer);
  EXPECT_NE(found->why.find(fmt::format("pid {} ", child.pid().value())), std::string::npos) << found->why;
}

TEST(PipePeer, AnEndThatIsAlsoOutsideIsRefused) {
  const Ends pipe = make_pipe();
  const Child child;
  const OpenFileTable table = gather_own_files();
  const OpenFile& file = *find_file(table, pipe.write_end.get());
  EXPECT_EQ(find_pipe_peer(file, table), PipePeer::kShared);
  EXPECT_TRUE(pipe_end_obstacle(file, table, {}));
}

TEST(Pipe, ComesBackWithContentsSizeAndFlags) {
  Ends pipe = make_pipe();
  ASSERT_EQ(::fcntl(pipe.write_end.get(), F_SETPIPE_SZ, 131072), 131072);
  ASSERT_EQ(::fcntl(pipe.read_end.get(), F_SETFL, O_NONBLOCK), 0);
  put(pipe.write_end.get(), "left in the pipe");
  const int read_flags = ::fcntl(pipe.read_end.get(), F_GETFL), write_flags = ::fcntl(pipe.write_end.get(), F_GETFL);
  RoundTrip trip;
  const auto saved = trip.save({pipe.read_end.get(), pipe.write_end.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  EXPECT_EQ(take(pipe.read_end.get()), "left in the pipe");  // of the original
  pipe = {};
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETFL), read_flags);
  EXPECT_EQ(::fcntl(trip.fd(1), F_GETFL), write_flags);
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETPIPE_SZ), 131072);
  EXPECT_GE(trip.fd(0), RoundTrip::kParkingBase);
  EXPECT_EQ(take(trip.fd(0)), "left in the pipe");
  put(trip.fd(1), "more");
  EXPECT_EQ(take(trip.fd(0)), "more");
}

TEST(Pipe, PacketModeComesBack) {
  Ends pipe = make_pipe(O_DIRECT);
  put(pipe.write_end.get(), "first");
  put(pipe.write_end.get(), "second");
  RoundTrip trip;
  ASSERT_TRUE(trip.save({pipe.read_end.get(), pipe.write_end.get()}));
  pipe = {};
  ASSERT_TRUE(trip.restore());
  EXPECT_NE(::fcntl(trip.fd(1), F_GETFL) & O_DIRECT, 0);
  EXPECT_EQ(take(trip.fd(0)), "first");
  put(trip.fd(1), "third");
  EXPECT_EQ(take(trip.fd(0)), "second");
  EXPECT_EQ(take(trip.fd(0)), "third");
}

TEST(Pipe, AHalfClosedPipeEndsOnceTheHashIsCleared) {
  Ends pipe = make_pipe(O_NONBLOCK);
  put(pipe.write_end.get(), "last words");
  pipe.write_end.reset();
  RoundTrip trip;
  ASSERT_TRUE(trip.save({pipe.read_end.get()}));
  pipe = {};
  ASSERT_TRUE(trip.restore());
  const UniqueFd task = trip.keep(0);
  EXPECT_EQ(take(task.get()), "last words");
  char byte = 0;
  EXPECT_EQ(::read(task.get(), &byte, 1), -1);  // the coordinator still has the other end
  EXPECT_EQ(errno, EAGAIN);
  trip.objects().clear();
  EXPECT_EQ(::read(task.get(), &byte, 1), 0);
}

TEST(Pipe, AWriterWithoutReadersGetsSigpipeOnceTheHashIsCleared) {
  Ends pipe = make_pipe();
  pipe.read_end.reset();
  RoundTrip trip;
  ASSERT_TRUE(trip.save({pipe.write_end.get()}));
  pipe = {};
  ASSERT_TRUE(trip.restore());
  const UniqueFd task = trip.keep(0);
  trip.objects().clear();
  const auto previous = ::signal(SIGPIPE, SIG_IGN);
  EXPECT_EQ(::write(task.get(), "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  ::signal(SIGPIPE, previous);
}

TEST(Pipe, TwoOpeningsOfOneEndStayTwo) {
  Ends pipe = make_pipe();
  UniqueFd second(
      ::open(fmt::format("/proc/self/fd/{}", pipe.write_end.get()).c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(second);
  const int flags = ::fcntl(second.get(), F_GETFL);
  RoundTrip trip;
  ASSERT_TRUE(trip.save({pipe.read_end.get(), pipe.write_end.get(), second.get()}));
  pipe = {};
  second.reset();
  ASSERT_TRUE(trip.restore());
  EXPECT_EQ(::fcntl(trip.fd(2), F_GETFL), flags);
  EXPECT_EQ(::fcntl(trip.fd(1), F_GETFL) & O_NONBLOCK, 0);
  put(trip.fd(1), "a");
  put(trip.fd(2), "b");
  EXPECT_EQ(take(trip.fd(0)), "ab");
}

TEST(Fifo, ComesBackByItsPath) {
  const sample::ScratchDir dir;
  const std::string path = dir / "fifo";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  UniqueFd both(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  UniqueFd writer(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  put(writer.get(), "in the fifo");
  const int flags = ::fcntl(writer.get(), F_GETFL);
  RoundTrip trip;
  ASSERT_TRUE(trip.save({both.get(), writer.get()}));
  // While the program still runs its FIFO is in use.
  const auto too_early = trip.restore();
  ASSERT_FALSE(too_early);
  EXPECT_EQ(too_early.error().code(), Errc::kFileChanged);
  both.reset();
  writer.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::fcntl(trip.fd(1), F_GETFL), flags);
  EXPECT_EQ(take(trip.fd(0)), "in the fifo");
  const UniqueFd other(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  put(other.get(), "by the name");
  EXPECT_EQ(take(trip.fd(0)), "by the name");
}

}  // namespace
}  // namespace stasis
