// SPDX-License-Identifier: Apache-2.0
// What lies unread in unix sockets is there again: bytes, message boundaries, senders, credentials; also in full
// queues.
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

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

std::string pattern(std::size_t bytes, unsigned seed) {
  std::string text(bytes, '\0');
  for (auto& c : text) {
    seed = seed * 1103515245U + 12345U;
    c = static_cast<char>(seed >> 16);
  }
  return text;
}

sockaddr_un address_of(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.data(), std::min(name.size(), sizeof address.sun_path - 1));
  return address;
}

int bound(int type, const std::string& name) {
  const int fd = SETUP(socket(AF_UNIX, type, 0));
  const sockaddr_un address = address_of(name);
  SETUP(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address));
  return fd;
}

std::string read_all(int fd, std::size_t bytes) {
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (text.size() < bytes) {
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

struct Message {
  ssize_t bytes = -1;
  std::string text;
  std::string sender;
  ucred credentials{};
  bool has_credentials = false;
};

Message receive(int fd) {
  Message message;
  std::vector<char> buffer(1 << 18);
  alignas(cmsghdr) std::array<char, 512> control{};
  sockaddr_un sender{};
  iovec vector{buffer.data(), buffer.size()};
  msghdr header{};
  header.msg_name = &sender;
  header.msg_namelen = sizeof sender;
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  message.bytes = recvmsg(fd, &header, MSG_DONTWAIT);
  if (message.bytes < 0) return message;
  message.text.assign(buffer.data(), static_cast<std::size_t>(message.bytes));
  if (header.msg_namelen > sizeof(sa_family_t)) message.sender = sender.sun_path;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS) continue;
    std::memcpy(&message.credentials, CMSG_DATA(c), sizeof message.credentials);
    message.has_credentials = true;
  }
  return message;
}

}  // namespace

int main() {
  const Pair stream = make_pair(SOCK_STREAM);
  const std::string there = pattern(30000, 1), back = pattern(777, 2);
  SETUP(send(stream[0], there.data(), there.size(), 0));
  SETUP(send(stream[1], back.data(), back.size(), 0));

  // Full to the brim, in small pieces.
  const Pair full = make_pair(SOCK_STREAM | SOCK_NONBLOCK);
  std::string full_text;
  for (unsigned i = 0;; ++i) {
    const std::string piece = pattern(61, i);
    const ssize_t sent = send(full[0], piece.data(), piece.size(), 0);
    if (sent < 0) break;
    full_text += piece.substr(0, static_cast<std::size_t>(sent));
  }

  const Pair datagram = make_pair(SOCK_DGRAM);
  const Pair packet = make_pair(SOCK_SEQPACKET);
  const std::string large = pattern(100000, 3);
  const std::vector<std::string> messages = {"one", "three", "", large, "x", "the last"};
  for (const std::string& message : messages) {
    SETUP(send(datagram[0], message.data(), message.size(), 0));
    if (!message.empty()) SETUP(send(packet[0], message.data(), message.size(), 0));
  }

  // By name: from a socket that is still there, and from one that has ended.
  const std::string own_name = scenario::path("box"), sender_name = scenario::path("sender"),
                    gone_name = scenario::path("gone");
  const int box = bound(SOCK_DGRAM, own_name);
  const sockaddr_un box_address = address_of(own_name);
  const int sender = bound(SOCK_DGRAM, sender_name);
  SETUP(sendto(sender, "from sender", 11, 0, reinterpret_cast<const sockaddr*>(&box_address), sizeof box_address));
  const int gone = bound(SOCK_DGRAM, gone_name);
  SETUP(sendto(gone, "from gone", 9, 0, reinterpret_cast<const sockaddr*>(&box_address), sizeof box_address));
  close(gone);
  unlink(gone_name.c_str());
  const int nameless = SETUP(socket(AF_UNIX, SOCK_DGRAM, 0));
  SETUP(connect(nameless, reinterpret_cast<const sockaddr*>(&box_address), sizeof box_address));
  SETUP(send(nameless, "from nobody", 11, 0));

  // By a name relative to a directory that is nobody's working directory any more.
  const std::string directory = scenario::path("directory"), relative = "box";
  SETUP(mkdir(directory.c_str(), 0700));
  SETUP(chdir(directory.c_str()));
  const int relative_box = bound(SOCK_DGRAM, relative);
  const sockaddr_un relative_address = address_of(relative);
  SETUP(
      sendto(sender, "relative", 8, 0, reinterpret_cast<const sockaddr*>(&relative_address), sizeof relative_address));

  const Pair credentials = make_pair(SOCK_STREAM);
  const int on = 1;
  SETUP(setsockopt(credentials[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
  SETUP(send(credentials[0], "who am I", 8, 0));
  const Pair datagram_credentials = make_pair(SOCK_DGRAM);
  SETUP(setsockopt(datagram_credentials[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
  SETUP(send(datagram_credentials[0], "and I", 5, 0));

  int unread_before = 0;
  SETUP(ioctl(stream[1], FIONREAD, &unread_before));

  scenario::ready_and_wait();

  int unread = 0;
  CHECK_EQ(ioctl(stream[1], FIONREAD, &unread), 0);
  CHECK_EQ(unread, unread_before);
  CHECK(read_all(stream[1], there.size()) == there, "a stream's queue has other contents");
  CHECK(read_all(stream[0], back.size()) == back, "a stream's queue the other way has other contents");
  CHECK(read_all(full[1], full_text.size()) == full_text, "a full queue has other contents");
  CHECK(send(full[0], "y", 1, 0) == 1, "a full queue that was emptied takes nothing");

  for (const std::string& message : messages) {
    const Message found = receive(datagram[1]);
    CHECK(found.bytes == static_cast<ssize_t>(message.size()) && found.text == message,
          "a datagram of %zu bytes has %zd", message.size(), found.bytes);
    if (message.empty()) continue;
    const Message record = receive(packet[1]);
    CHECK(record.bytes == static_cast<ssize_t>(message.size()) && record.text == message,
          "a seqpacket of %zu bytes has %zd", message.size(), record.bytes);
  }
  CHECK_EQ(receive(datagram[1]).bytes, -1);
  CHECK_EQ(receive(packet[1]).bytes, -1);

  const Message first = receive(box), second = receive(box), third = receive(box);
  CHECK(first.text == "from sender" && first.sender == sender_name, "first: '%s' from '%s'", first.text.c_str(),
        first.sender.c_str());
  CHECK(second.text == "from gone" && second.sender == gone_name, "second: '%s' from '%s'", second.text.c_str(),
        second.sender.c_str());
  CHECK(third.text == "from nobody" && third.sender.empty(), "third: '%s' from '%s'", third.text.c_str(),
        third.sender.c_str());
  const Message by_relative = receive(relative_box);
  CHECK(by_relative.text == "relative" && by_relative.sender == sender_name, "relative: '%s' from '%s'",
        by_relative.text.c_str(), by_relative.sender.c_str());
  unlink(relative.c_str());
  CHECK_EQ(chdir("/"), 0);
  CHECK_EQ(rmdir(directory.c_str()), 0);
  CHECK_EQ(sendto(sender, "again", 5, 0, reinterpret_cast<const sockaddr*>(&box_address), sizeof box_address), 5);
  CHECK(receive(box).sender == sender_name, "a named datagram socket lost its name");
  CHECK_EQ(send(nameless, "again", 5, 0), 5);
  CHECK(receive(box).text == "again", "a connected datagram socket is not connected");

  for (const auto& [fd, text] : {std::pair(credentials[1], "who am I"), std::pair(datagram_credentials[1], "and I")}) {
    const Message message = receive(fd);
    CHECK(message.text == text, "a message with credentials is '%s'", message.text.c_str());
    CHECK(message.has_credentials, "the credentials are lost");
    CHECK_EQ(message.credentials.pid, getpid());
    CHECK_EQ(message.credentials.uid, getuid());
    CHECK_EQ(message.credentials.gid, getgid());
  }
  unlink(own_name.c_str());
  unlink(sender_name.c_str());
  return scenario::finish();
}
