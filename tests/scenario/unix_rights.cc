// SPDX-License-Identifier: Apache-2.0
// Descriptors in flight (SCM_RIGHTS): files that nobody has open otherwise, files that somebody has (then they share
// the offset), ends of pipes, sockets with queues of their own, and a socket in its own queue.
#include <sys/socket.h>

#include <array>
#include <vector>

#include "scenario.h"

namespace {

using Pair = std::array<int, 2>;

Pair make_pair(int type) {
  Pair pair{};
  SETUP(socketpair(AF_UNIX, type, 0, pair.data()));
  return pair;
}

void send_files(int fd, const std::string& text, const std::vector<int>& files) {
  alignas(cmsghdr) std::array<char, 512> control{};
  iovec vector{const_cast<char*>(text.data()), text.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = CMSG_SPACE(files.size() * sizeof(int));
  cmsghdr* const c = CMSG_FIRSTHDR(&header);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(files.size() * sizeof(int));
  std::memcpy(CMSG_DATA(c), files.data(), files.size() * sizeof(int));
  SETUP(sendmsg(fd, &header, 0));
}

struct Message {
  std::string text;
  std::vector<int> files;
};

Message receive(int fd, std::size_t bytes = 1000) {
  Message message;
  std::vector<char> buffer(bytes);
  alignas(cmsghdr) std::array<char, 512> control{};
  iovec vector{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  const ssize_t got = recvmsg(fd, &header, MSG_DONTWAIT);
  if (got < 0) return message;
  message.text.assign(buffer.data(), static_cast<std::size_t>(got));
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    message.files.resize((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(message.files.data(), CMSG_DATA(c), message.files.size() * sizeof(int));
  }
  return message;
}

std::string read_some(int fd, std::size_t bytes) {
  std::string text(bytes, '\0');
  const ssize_t got = read(fd, text.data(), bytes);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

bool same_file(int a, int b) {
  struct stat first{};
  struct stat second{};
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_ino == second.st_ino &&
         first.st_dev == second.st_dev;
}

}  // namespace

int main() {
  const std::string path = scenario::path("data");
  scenario::write_file(path, "0123456789abcdef");

  // A file that is open only in a queue, at an offset; and one that is open here as well.
  const Pair stream = make_pair(SOCK_STREAM);
  const int lonely = SETUP(open(path.c_str(), O_RDONLY));
  SETUP(lseek(lonely, 3, SEEK_SET));
  const int shared = SETUP(open(path.c_str(), O_RDONLY));
  SETUP(send(stream[0], "before ", 7, 0));
  send_files(stream[0], "files", {lonely, shared});
  SETUP(send(stream[0], " after", 6, 0));
  close(lonely);

  // The only write end of a pipe lies in a queue: the pipe is not at its end.
  std::array<int, 2> pipe_ends{};
  SETUP(pipe2(pipe_ends.data(), O_NONBLOCK));
  const Pair datagram = make_pair(SOCK_DGRAM);
  send_files(datagram[0], "a pipe", {pipe_ends[1]});
  close(pipe_ends[1]);

  // A socket whose own queue holds a message and another descriptor lies in a queue.
  const Pair outer = make_pair(SOCK_SEQPACKET), inner = make_pair(SOCK_STREAM);
  const int deep = SETUP(open(path.c_str(), O_RDONLY));
  SETUP(lseek(deep, 10, SEEK_SET));
  send_files(inner[0], "deep", {deep});
  close(deep);
  send_files(outer[0], "inner", {inner[1]});
  close(inner[1]);

  // A socket in its own queue.
  const Pair itself = make_pair(SOCK_STREAM);
  send_files(itself[0], "me", {itself[1], itself[0]});

  scenario::ready_and_wait();

  // What was sent without a descriptor comes alone if it is asked for alone.
  const Message before = receive(stream[1], 7);
  CHECK(before.text == "before ", "first part is '%s'", before.text.c_str());
  CHECK_EQ(before.files.size(), 0);
  const Message files = receive(stream[1], 5);
  CHECK(files.text == "files", "second part is '%s'", files.text.c_str());
  if (CHECK(files.files.size() == 2, "%zu descriptors, not 2", files.files.size())) {
    CHECK(read_some(files.files[0], 4) == "3456", "the file in flight is at another offset");
    CHECK(read_some(files.files[1], 2) == "01", "the shared file is at another offset");
    CHECK(read_some(shared, 2) == "23", "the file in flight is not shared with the open one any more");
  }
  const Message after = receive(stream[1]);
  CHECK(after.text == " after" && after.files.empty(), "third part is '%s' with %zu descriptors", after.text.c_str(),
        after.files.size());

  char nothing = 0;
  CHECK(read(pipe_ends[0], &nothing, 1) == -1 && errno == EAGAIN, "a pipe whose write end is in flight is at its end");
  const Message pipe_message = receive(datagram[1]);
  CHECK(pipe_message.text == "a pipe", "the pipe's message is '%s'", pipe_message.text.c_str());
  if (CHECK(pipe_message.files.size() == 1, "no pipe in flight")) {
    CHECK_EQ(write(pipe_message.files[0], "through", 7), 7);
    CHECK(read_some(pipe_ends[0], 10) == "through", "the pipe in flight leads elsewhere");
    close(pipe_message.files[0]);
    char byte = 0;
    CHECK_EQ(read(pipe_ends[0], &byte, 1), 0);
  }

  const Message outer_message = receive(outer[1]);
  if (CHECK(outer_message.files.size() == 1, "no socket in flight")) {
    const Message deep_message = receive(outer_message.files[0]);
    CHECK(deep_message.text == "deep", "the queue of a socket in flight holds '%s'", deep_message.text.c_str());
    if (CHECK(deep_message.files.size() == 1, "no file in the queue of a socket in flight")) {
      CHECK(read_some(deep_message.files[0], 3) == "abc", "a file two queues deep differs");
    }
    CHECK_EQ(send(inner[0], "hello", 5, 0), 5);
    CHECK(receive(outer_message.files[0]).text == "hello", "a socket in flight lost its peer");
  }

  const Message self_message = receive(itself[1]);
  CHECK(self_message.text == "me", "a socket's own queue holds '%s'", self_message.text.c_str());
  if (CHECK(self_message.files.size() == 2, "no socket in its own queue")) {
    CHECK(same_file(self_message.files[0], itself[1]), "the socket in its own queue is another one");
    CHECK(same_file(self_message.files[1], itself[0]), "the peer in its peer's queue is another one");
    CHECK_EQ(send(self_message.files[1], "round", 5, 0), 5);
    CHECK(receive(itself[1]).text == "round", "the sockets of a loop are not connected");
  }
  return scenario::finish();
}
