// SPDX-License-Identifier: Apache-2.0
// Listening unix sockets (by path, relative path, abstract name) go on serving; connections that wait are accepted
// afterwards in their order; names of both ends are what they were, also where the file or the listener is gone.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "scenario.h"

namespace {

struct Address {
  sockaddr_un address{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

Address address_of(const std::string& name) {
  Address made;
  made.address.sun_family = AF_UNIX;
  std::memcpy(made.address.sun_path, name.data(), std::min(name.size(), sizeof made.address.sun_path));
  made.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  return made;
}

std::string text_of(const sockaddr_un& address, socklen_t length) {
  constexpr std::size_t kOffset = offsetof(sockaddr_un, sun_path);
  if (length <= kOffset) return {};
  std::string name(address.sun_path, length - kOffset);
  while (name.size() > 1 && name.front() != '\0' && name.back() == '\0') name.pop_back();
  return name;
}

std::string name_of(int fd) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  return getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 ? text_of(address, length) : "?";
}

std::string peer_of(int fd) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  return getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 ? text_of(address, length) : "?";
}

int listener(int type, const std::string& name, int backlog = 5) {
  const int fd = SETUP(socket(AF_UNIX, type, 0));
  const Address address = address_of(name);
  SETUP(bind(fd, address.get(), address.length));
  SETUP(listen(fd, backlog));
  return fd;
}

int client(int type, const std::string& name) {
  const int fd = SETUP(socket(AF_UNIX, type, 0));
  const Address address = address_of(name);
  SETUP(connect(fd, address.get(), address.length));
  return fd;
}

void check_both_ways(int a, int b, const char* what) {
  std::array<char, 16> buffer{};
  CHECK(send(a, "ping", 4, MSG_NOSIGNAL) == 4, "%s: send: %s", what, std::strerror(errno));
  CHECK(recv(b, buffer.data(), buffer.size(), MSG_DONTWAIT) == 4, "%s: no ping", what);
  CHECK(send(b, "pong", 4, MSG_NOSIGNAL) == 4, "%s: send back: %s", what, std::strerror(errno));
  CHECK(recv(a, buffer.data(), buffer.size(), MSG_DONTWAIT) == 4, "%s: no pong", what);
}

void check_serves(int server, int type, const std::string& name, const char* what) {
  const int fd = socket(AF_UNIX, type, 0);
  const Address address = address_of(name);
  if (!CHECK(connect(fd, address.get(), address.length) == 0, "%s: connect: %s", what, std::strerror(errno))) return;
  const int accepted = accept(server, nullptr, nullptr);
  if (CHECK(accepted >= 0, "%s: accept: %s", what, std::strerror(errno))) check_both_ways(fd, accepted, what);
  close(accepted);
  close(fd);
}

}  // namespace

int main() {
  const std::string directory = scenario::path("directory");
  SETUP(mkdir(directory.c_str(), 0700));
  SETUP(chdir(directory.c_str()));
  const std::string path = scenario::path("listener"), relative = "relative", deleted = scenario::path("deleted"),
                    ended = scenario::path("ended");
  const std::string abstract = std::string(1, '\0') + "stasis-test-" + std::to_string(getpid());

  const int by_path = listener(SOCK_STREAM, path);
  SETUP(chmod(path.c_str(), 0640));
  const int by_relative = listener(SOCK_SEQPACKET, relative);
  const int by_abstract = listener(SOCK_STREAM, abstract, 3);
  const int unlinked = listener(SOCK_STREAM, deleted);
  unlink(deleted.c_str());

  const int path_client = client(SOCK_STREAM, path);
  const int path_server = SETUP(accept(by_path, nullptr, nullptr));
  const int abstract_client = client(SOCK_STREAM, abstract);
  const int abstract_server = SETUP(accept(by_abstract, nullptr, nullptr));
  const int second_client = client(SOCK_STREAM, abstract);
  const int second_server = SETUP(accept(by_abstract, nullptr, nullptr));
  const int relative_client = client(SOCK_SEQPACKET, relative);
  const int relative_server = SETUP(accept(by_relative, nullptr, nullptr));
  // The client has a name too, and the listener ends.
  const int short_lived = listener(SOCK_STREAM, ended);
  const std::string client_name = scenario::path("client");
  const int ended_client = SETUP(socket(AF_UNIX, SOCK_STREAM, 0));
  const Address client_address = address_of(client_name), ended_address = address_of(ended);
  SETUP(bind(ended_client, client_address.get(), client_address.length));
  SETUP(connect(ended_client, ended_address.get(), ended_address.length));
  const int ended_server = SETUP(accept(short_lived, nullptr, nullptr));
  close(short_lived);
  unlink(ended.c_str());
  unlink(client_name.c_str());

  // Three wait, told apart by which of them answers.
  const std::array<int, 3> waiting = {client(SOCK_STREAM, path), client(SOCK_STREAM, path), client(SOCK_STREAM, path)};
  const int relative_waiting = client(SOCK_SEQPACKET, relative);
  // By the kernel's choice.
  const int autobound = SETUP(socket(AF_UNIX, SOCK_DGRAM, 0));
  const sa_family_t family = AF_UNIX;
  SETUP(bind(autobound, reinterpret_cast<const sockaddr*>(&family), sizeof family));
  const std::string chosen = name_of(autobound);

  scenario::ready_and_wait();

  CHECK(name_of(by_path) == path, "the listener's name is %s", name_of(by_path).c_str());
  struct stat file{};
  CHECK(lstat(path.c_str(), &file) == 0 && S_ISSOCK(file.st_mode), "the listener's file is gone");
  CHECK_EQ(file.st_mode & 07777, 0640);
  CHECK_EQ(file.st_uid, getuid());
  for (const int fd : waiting) {
    const int accepted = accept(by_path, nullptr, nullptr);
    if (!CHECK(accepted >= 0, "a waiting connection is lost: %s", std::strerror(errno))) continue;
    check_both_ways(fd, accepted, "waiting");
    close(accepted);
  }
  const int relative_accepted = accept(by_relative, nullptr, nullptr);
  CHECK(relative_accepted >= 0, "a connection that waits at a relative path is lost: %s", std::strerror(errno));
  check_both_ways(relative_waiting, relative_accepted, "waiting at a relative path");
  pollfd more{by_path, POLLIN, 0};
  CHECK_EQ(poll(&more, 1, 0), 0);
  check_serves(by_path, SOCK_STREAM, path, "path");
  check_serves(by_relative, SOCK_SEQPACKET, relative, "relative path");
  check_serves(by_abstract, SOCK_STREAM, abstract, "abstract");
  CHECK(name_of(unlinked) == deleted, "the unlinked listener's name is %s", name_of(unlinked).c_str());
  CHECK(access(deleted.c_str(), F_OK) != 0, "the unlinked listener's file is back");

  check_both_ways(path_client, path_server, "by path");
  CHECK(peer_of(path_client) == path, "the client's peer is %s", peer_of(path_client).c_str());
  CHECK(name_of(path_server) == path, "the accepted socket's name is %s", name_of(path_server).c_str());
  CHECK(peer_of(path_server).empty(), "the accepted socket's peer is %s", peer_of(path_server).c_str());
  check_both_ways(abstract_client, abstract_server, "by abstract name");
  check_both_ways(second_client, second_server, "by abstract name again");
  CHECK(peer_of(second_client) == abstract, "the abstract peer's name is lost");
  check_both_ways(relative_client, relative_server, "by relative path");
  CHECK(peer_of(relative_client) == relative, "the relative peer is %s", peer_of(relative_client).c_str());
  check_both_ways(ended_client, ended_server, "by an ended listener");
  CHECK(peer_of(ended_client) == ended && name_of(ended_client) == client_name, "names are %s and %s",
        peer_of(ended_client).c_str(), name_of(ended_client).c_str());
  CHECK(peer_of(ended_server) == client_name && name_of(ended_server) == ended, "names are %s and %s",
        peer_of(ended_server).c_str(), name_of(ended_server).c_str());
  CHECK(name_of(autobound) == chosen, "the autobound name changed");
  unlink(path.c_str());
  unlink(relative.c_str());
  CHECK_EQ(chdir("/"), 0);
  CHECK_EQ(rmdir(directory.c_str()), 0);
  return scenario::finish();
}
