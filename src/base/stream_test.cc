// SPDX-License-Identifier: Apache-2.0
#include "base/stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace stasis {
namespace {

struct Ends {
  UniqueFd read, write;
};

Ends make_pipe(int flags = 0) {
  std::array<int, 2> fds{};
  EXPECT_EQ(::pipe2(fds.data(), O_CLOEXEC | flags), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Ends make_socket() {
  std::array<int, 2> fds{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// More than any of them buffers.
std::vector<std::byte> many_bytes() {
  std::vector<std::byte> bytes(std::size_t{3} << 20);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 2654435761U >> 24);
  return bytes;
}

KeepGoing until(std::chrono::nanoseconds limit) {
  return [limit](std::chrono::nanoseconds stalled) -> Result<void> {
    if (stalled < limit) return {};
    return Error(Errc::kTimeout, "stalled");
  };
}

void expect_carries_all(Ends ends) {
  const auto sent = many_bytes();
  std::vector<std::byte> got(sent.size() + 1);
  std::size_t count = 0;
  std::thread reader([&] {
    const auto read = read_stream(ends.read.get(), got, {});
    ASSERT_TRUE(read) << read.error().message();
    count = *read;
  });
  const auto written = write_stream(ends.write.get(), sent, {});
  EXPECT_TRUE(written);
  ends.write.reset();
  reader.join();
  ASSERT_EQ(count, sent.size());
  got.resize(count);
  EXPECT_EQ(got, sent);
}

TEST(Stream, CarriesEverythingThroughAPipe) { expect_carries_all(make_pipe()); }
TEST(Stream, CarriesEverythingThroughANonBlockingPipe) { expect_carries_all(make_pipe(O_NONBLOCK)); }
TEST(Stream, CarriesEverythingThroughASocket) { expect_carries_all(make_socket()); }

TEST(Stream, AWriteThatNobodyTakesEndsWithTheErrorOfWhoIsAsked) {
  for (const auto make : {+[] { return make_pipe(); }, +[] { return make_socket(); }}) {
    const Ends ends = make();
    const auto written = write_stream(ends.write.get(), many_bytes(), until(std::chrono::milliseconds(1)));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code(), Errc::kTimeout);
  }
}

TEST(Stream, AReadOfWhatNobodyWritesEndsWithTheErrorOfWhoIsAsked) {
  const Ends ends = make_pipe();
  std::array<std::byte, 10> buffer{};
  const auto read = read_stream(ends.read.get(), buffer, until(std::chrono::milliseconds(1)));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Errc::kTimeout);
}

TEST(Stream, AReaderThatIsGoneIsAnError) {
  ::signal(SIGPIPE, SIG_IGN);
  Ends ends = make_pipe();
  ends.read.reset();
  const auto written = write_stream(ends.write.get(), many_bytes(), {});
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().sys_errno(), EPIPE);
}

TEST(Stream, AFifoWithoutAWriterIsWaitedForAsLongAsAllowed) {
  std::string dir = "/tmp/stasis-stream-XXXXXX";
  ASSERT_NE(::mkdtemp(dir.data()), nullptr);
  const std::string fifo = dir + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const auto nobody = open_input(fifo, until(std::chrono::milliseconds(1)));
  EXPECT_FALSE(nobody);
  std::thread writer([&] {
    const UniqueFd end(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_EQ(::write(end.get(), "hello", 5), 5);
  });
  auto input = open_input(fifo, {});
  ASSERT_TRUE(input);
  std::array<std::byte, 10> buffer{};
  const auto read = read_stream(input->get(), buffer, {});
  writer.join();
  ASSERT_TRUE(read);
  EXPECT_EQ(*read, 5U);
  EXPECT_EQ(::fcntl(input->get(), F_GETFL) & O_NONBLOCK, 0);
  ::unlink(fifo.c_str());
  ::rmdir(dir.c_str());
}

}  // namespace
}  // namespace stasis
