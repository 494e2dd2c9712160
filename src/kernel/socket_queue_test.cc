// SPDX-License-Identifier: Apache-2.0
#include "kernel/socket_queue.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "kernel/unix_diag.h"
#include "kernel/unix_name.h"

namespace stasis::kernel {
namespace {

struct Pair {
  UniqueFd a;
  UniqueFd b;
};

Pair make_pair(int type) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

void put(const UniqueFd& fd, std::string_view text, std::span<const int> files = {}) {
  const auto sent = send_message(fd.get(), {.bytes = bytes_of(text), .files = files, .destination = {}});
  ASSERT_TRUE(sent) << sent.error().to_string();
  ASSERT_EQ(*sent, text.size());
}

std::vector<QueuedMessage> peek(const UniqueFd& fd) {
  auto messages = peek_queue(fd.get());
  EXPECT_TRUE(messages) << messages.error().to_string();
  return messages ? *std::move(messages) : std::vector<QueuedMessage>();
}

std::string text_of(const QueuedMessage& message) {
  return {reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size()};
}

std::vector<std::string> texts(const std::vector<QueuedMessage>& messages) {
  std::vector<std::string> all;
  for (const QueuedMessage& message : messages) all.push_back(text_of(message));
  return all;
}

int option(const UniqueFd& fd, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  EXPECT_EQ(::getsockopt(fd.get(), SOL_SOCKET, name, &value, &length), 0);
  return value;
}

TEST(PeekQueue, AnEmptyQueueHasNoMessages) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) EXPECT_TRUE(peek(make_pair(type).b).empty());
}

TEST(PeekQueue, AStreamIsOneMessageAndStays) {
  const Pair pair = make_pair(SOCK_STREAM);
  put(pair.a, "hello ");
  put(pair.a, "world");
  for (int i = 0; i < 2; ++i) EXPECT_EQ(texts(peek(pair.b)), std::vector<std::string>{"hello world"});
  int unread = 0;
  EXPECT_EQ(::ioctl(pair.b.get(), FIONREAD, &unread), 0);
  EXPECT_EQ(unread, 11);
}

TEST(PeekQueue, PacketsKeepTheirBoundaries) {
  for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
    const Pair pair = make_pair(type);
    const std::string large(200000, 'l');
    for (const std::string& text : {std::string("one"), large, std::string("x")}) put(pair.a, text);
    for (int i = 0; i < 2; ++i) EXPECT_EQ(texts(peek(pair.b)), (std::vector<std::string>{"one", large, "x"}));
  }
}

TEST(PeekQueue, AnEmptyDatagramIsAMessage) {
  const Pair pair = make_pair(SOCK_DGRAM);
  for (const char* const text : {"a", "", "b"}) put(pair.a, text);
  EXPECT_EQ(texts(peek(pair.b)), (std::vector<std::string>{"a", "", "b"}));
}

TEST(PeekQueue, TheProgramsOwnPeekOffsetIsKept) {
  const Pair pair = make_pair(SOCK_STREAM);
  put(pair.a, "abcdef");
  int offset = 4;
  ASSERT_EQ(::setsockopt(pair.b.get(), SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset), 0);
  EXPECT_EQ(texts(peek(pair.b)), std::vector<std::string>{"abcdef"});
  EXPECT_EQ(option(pair.b, SO_PEEK_OFF), 4);
  const Pair other = make_pair(SOCK_STREAM);
  put(other.a, "x");
  peek(other.b);
  EXPECT_EQ(option(other.b, SO_PEEK_OFF), -1);
}

TEST(PeekQueue, DescriptorsComeWithTheBytesThatCarryThem) {
  const Pair pair = make_pair(SOCK_STREAM);
  const int file = pair.a.get();
  put(pair.a, "before");
  put(pair.a, "with", std::span(&file, 1));
  put(pair.a, "after");
  const auto messages = peek(pair.b);
  EXPECT_EQ(texts(messages), (std::vector<std::string>{"before", "with", "after"}));
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_TRUE(messages[0].files.empty());
  ASSERT_EQ(messages[1].files.size(), 1u);
  EXPECT_TRUE(messages[2].files.empty());
  struct ::stat sent{}, received{};
  ASSERT_EQ(::fstat(file, &sent), 0);
  ASSERT_EQ(::fstat(messages[1].files[0].get(), &received), 0);
  EXPECT_EQ(received.st_ino, sent.st_ino);
}

TEST(PeekQueue, ASingleByteMayCarryADescriptor) {
  const Pair pair = make_pair(SOCK_STREAM);
  const int file = pair.a.get();
  put(pair.a, "x", std::span(&file, 1));
  const auto messages = peek(pair.b);
  EXPECT_EQ(texts(messages), std::vector<std::string>{"x"});
  EXPECT_EQ(messages[0].files.size(), 1u);
}

TEST(PeekQueue, CredentialsAreThoseOfTheSender) {
  const Pair pair = make_pair(SOCK_SEQPACKET);
  const int on = 1;
  ASSERT_EQ(::setsockopt(pair.b.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  put(pair.a, "who");
  const auto messages = peek(pair.b);
  ASSERT_EQ(messages.size(), 1u);
  ASSERT_TRUE(messages[0].credentials);
  EXPECT_EQ(messages[0].credentials->pid, ::getpid());
  EXPECT_EQ(messages[0].credentials->uid, ::getuid());
}

TEST(PeekQueue, AWaitingResetIsNotTakenFromAStream) {
  Pair pair = make_pair(SOCK_STREAM);
  put(pair.a, "never read");
  put(pair.b, "last words");
  pair.b.reset();
  EXPECT_EQ(texts(peek(pair.a)), std::vector<std::string>{"last words"});
  char buffer[16];
  EXPECT_EQ(::recv(pair.a.get(), buffer, sizeof buffer, 0), 10);
  EXPECT_EQ(::recv(pair.a.get(), buffer, sizeof buffer, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
}

TEST(PeekQueue, AWaitingErrorOfPacketsIsRefused) {
  Pair pair = make_pair(SOCK_SEQPACKET);
  put(pair.a, "never read");
  put(pair.b, "last words");
  pair.b.reset();
  const auto messages = peek_queue(pair.a.get());
  ASSERT_FALSE(messages);
  EXPECT_EQ(messages.error().code(), Errc::kUnsupportedObject);
  char byte = 0;
  EXPECT_EQ(::recv(pair.a.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
}

TEST(PeekQueue, AtTheEndOfSeqpacketsThereIsNothingMore) {
  Pair pair = make_pair(SOCK_SEQPACKET);
  put(pair.a, "last");
  pair.a.reset();
  EXPECT_EQ(texts(peek(pair.b)), std::vector<std::string>{"last"});
}

TEST(SendMessage, AFullQueueIsBusy) {
  const Pair pair = make_pair(SOCK_DGRAM);
  const std::string text(1000, 'x');
  Result<std::size_t> sent = std::size_t{0};
  for (int i = 0; i < 100000 && sent; ++i) sent = send_message(pair.a.get(), {bytes_of(text), {}, nullptr, {}});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code(), Errc::kBusy);
}

TEST(UnixName, NamesComeBackAsTheyWere) {
  for (const std::string& name :
       {std::string("/a/path"), std::string("relative"), std::string("\0abstract\0x", 11), std::string(108, 'p')}) {
    const auto address = UnixAddress::of(name);
    ASSERT_TRUE(address);
    EXPECT_EQ(unix_name(address->address, address->length), name);
  }
}

TEST(UnixName, MalformedNamesAreRefused) {
  for (const std::string& name : {std::string(), std::string(109, 'p'), std::string("a\0b", 3)}) {
    EXPECT_FALSE(UnixAddress::of(name)) << name.size();
  }
}

TEST(UnixDiag, AFileInUseIsKnownFromADeadOne) {
  const std::string path = "/tmp/stasis-unit-" + std::to_string(::getpid());
  UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = UnixAddress::of(path);
  ASSERT_EQ(::bind(server.get(), address->get(), address->length), 0);
  struct ::stat stat{};
  ASSERT_EQ(::lstat(path.c_str(), &stat), 0);
  const auto file = UnixSocketFile::of(stat.st_ino, stat.st_dev);
  const auto used = is_unix_socket_file_in_use(file);
  ASSERT_TRUE(used) << used.error().to_string();
  EXPECT_TRUE(*used);
  server.reset();
  EXPECT_FALSE(*is_unix_socket_file_in_use(file));
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace stasis::kernel
