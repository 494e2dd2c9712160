// SPDX-License-Identifier: Apache-2.0
// Unix sockets of every type, connected as pairs: both ways work, options, flags and timeouts are kept, halves stay
// shut down, and a far end that is closed gives EOF, EPIPE or ECONNRESET.
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>

#include "scenario.h"

namespace {

using Pair = std::array<int, 2>;

Pair make_pair(int type) {
  Pair pair{};
  SETUP(socketpair(AF_UNIX, type, 0, pair.data()));
  return pair;
}

void set_option(int fd, int name, int value) { SETUP(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value)); }

int option(int fd, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  getsockopt(fd, SOL_SOCKET, name, &value, &length);
  return value;
}

void check_both_ways(const Pair& pair, const char* what) {
  std::array<char, 16> buffer{};
  CHECK(send(pair[0], "ping", 4, 0) == 4, "%s: send: %s", what, std::strerror(errno));
  CHECK(recv(pair[1], buffer.data(), buffer.size(), 0) == 4 && std::memcmp(buffer.data(), "ping", 4) == 0,
        "%s: no ping", what);
  CHECK(send(pair[1], "pong", 4, 0) == 4, "%s: send back: %s", what, std::strerror(errno));
  CHECK(recv(pair[0], buffer.data(), buffer.size(), 0) == 4 && std::memcmp(buffer.data(), "pong", 4) == 0,
        "%s: no pong", what);
}

}  // namespace

int main() {
  signal(SIGPIPE, SIG_IGN);
  const Pair stream = make_pair(SOCK_STREAM | SOCK_CLOEXEC);
  const Pair datagram = make_pair(SOCK_DGRAM);
  const Pair packet = make_pair(SOCK_SEQPACKET | SOCK_NONBLOCK);
  const int copy = SETUP(dup(datagram[0]));

  const Pair options = make_pair(SOCK_STREAM);
  set_option(options[0], SO_SNDBUF, 40000);
  set_option(options[0], SO_RCVBUF, 50000);
  set_option(options[0], SO_PASSCRED, 1);
  set_option(options[0], SO_KEEPALIVE, 1);
  set_option(options[0], SO_PRIORITY, 3);
  set_option(options[1], SO_RCVLOWAT, 7);
  set_option(options[1], SO_PEEK_OFF, 2);
  const timeval receive_timeout = {2, 250000}, send_timeout = {5, 0};
  SETUP(setsockopt(options[0], SOL_SOCKET, SO_RCVTIMEO, &receive_timeout, sizeof receive_timeout));
  SETUP(setsockopt(options[0], SOL_SOCKET, SO_SNDTIMEO, &send_timeout, sizeof send_timeout));
  const linger lingers = {1, 9};
  SETUP(setsockopt(options[0], SOL_SOCKET, SO_LINGER, &lingers, sizeof lingers));
  const int send_buffer = option(options[0], SO_SNDBUF), receive_buffer = option(options[0], SO_RCVBUF);

  const Pair no_more_writes = make_pair(SOCK_STREAM);
  SETUP(send(no_more_writes[0], "last", 4, 0));
  SETUP(shutdown(no_more_writes[0], SHUT_WR));
  const Pair no_more_reads = make_pair(SOCK_SEQPACKET);
  SETUP(shutdown(no_more_reads[1], SHUT_RD));
  const Pair nothing_more = make_pair(SOCK_STREAM);
  SETUP(shutdown(nothing_more[0], SHUT_RDWR));

  Pair ended = make_pair(SOCK_STREAM);
  SETUP(send(ended[1], "bye", 3, 0));
  close(ended[1]);
  Pair reset = make_pair(SOCK_STREAM);
  SETUP(send(reset[0], "never read", 10, 0));
  close(reset[1]);
  Pair ended_packets = make_pair(SOCK_SEQPACKET);
  close(ended_packets[1]);
  Pair refused = make_pair(SOCK_DGRAM);
  close(refused[1]);

  scenario::ready_and_wait();

  ucred peer{};
  socklen_t peer_length = sizeof peer;
  CHECK_EQ(getsockopt(stream[0], SOL_SOCKET, SO_PEERCRED, &peer, &peer_length), 0);
  CHECK_EQ(peer.pid, getpid());
  CHECK_EQ(peer.uid, geteuid());
  CHECK_EQ(peer.gid, getegid());
  check_both_ways(stream, "stream");
  check_both_ways(datagram, "datagram");
  check_both_ways(packet, "seqpacket");
  CHECK((fcntl(stream[0], F_GETFD) & FD_CLOEXEC) != 0, "close-on-exec is lost");
  CHECK((fcntl(packet[0], F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");
  CHECK((fcntl(stream[0], F_GETFL) & O_NONBLOCK) == 0, "a blocking socket became non-blocking");
  CHECK_EQ(fcntl(datagram[0], F_SETFL, O_NONBLOCK), 0);
  CHECK((fcntl(copy, F_GETFL) & O_NONBLOCK) != 0, "a duplicate is no duplicate any more");

  CHECK_EQ(option(options[0], SO_SNDBUF), send_buffer);
  CHECK_EQ(option(options[0], SO_RCVBUF), receive_buffer);
  CHECK_EQ(option(options[0], SO_PASSCRED), 1);
  CHECK_EQ(option(options[0], SO_KEEPALIVE), 1);
  CHECK_EQ(option(options[0], SO_PRIORITY), 3);
  CHECK_EQ(option(options[1], SO_RCVLOWAT), 7);
  CHECK_EQ(option(options[1], SO_PEEK_OFF), 2);
  CHECK_EQ(option(options[1], SO_SNDBUF), option(stream[0], SO_SNDBUF));
  timeval timeout{};
  socklen_t length = sizeof timeout;
  CHECK_EQ(getsockopt(options[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, &length), 0);
  CHECK(timeout.tv_sec == 2 && timeout.tv_usec >= 240000 && timeout.tv_usec <= 260000, "SO_RCVTIMEO is %ld s %ld us",
        static_cast<long>(timeout.tv_sec), static_cast<long>(timeout.tv_usec));
  linger lingers_now{};
  length = sizeof lingers_now;
  CHECK_EQ(getsockopt(options[0], SOL_SOCKET, SO_LINGER, &lingers_now, &length), 0);
  CHECK(lingers_now.l_onoff == 1 && lingers_now.l_linger == 9, "SO_LINGER is lost");

  std::array<char, 16> buffer{};
  CHECK_EQ(send(no_more_writes[0], "x", 1, 0), -1);
  CHECK_EQ(errno, EPIPE);
  CHECK_EQ(recv(no_more_writes[1], buffer.data(), buffer.size(), 0), 4);
  CHECK_EQ(recv(no_more_writes[1], buffer.data(), buffer.size(), 0), 0);
  CHECK_EQ(send(no_more_writes[1], "back", 4, 0), 4);
  CHECK_EQ(recv(no_more_writes[0], buffer.data(), buffer.size(), 0), 4);
  CHECK_EQ(send(no_more_reads[0], "x", 1, 0), -1);
  CHECK_EQ(errno, EPIPE);
  CHECK_EQ(send(no_more_reads[1], "y", 1, 0), 1);
  CHECK_EQ(recv(no_more_reads[0], buffer.data(), buffer.size(), 0), 1);
  CHECK_EQ(send(nothing_more[1], "x", 1, 0), -1);
  CHECK_EQ(recv(nothing_more[0], buffer.data(), buffer.size(), 0), 0);

  CHECK_EQ(recv(ended[0], buffer.data(), buffer.size(), 0), 3);
  CHECK_EQ(recv(ended[0], buffer.data(), buffer.size(), 0), 0);
  CHECK_EQ(send(ended[0], "x", 1, 0), -1);
  CHECK_EQ(errno, EPIPE);
  CHECK_EQ(recv(reset[0], buffer.data(), buffer.size(), 0), -1);
  CHECK_EQ(errno, ECONNRESET);
  CHECK_EQ(recv(reset[0], buffer.data(), buffer.size(), 0), 0);
  CHECK_EQ(recv(ended_packets[0], buffer.data(), buffer.size(), 0), 0);
  CHECK_EQ(send(refused[0], "x", 1, 0), -1);
  CHECK_EQ(errno, ECONNREFUSED);
  return scenario::finish();
}
