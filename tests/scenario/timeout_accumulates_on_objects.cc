// SPDX-License-Identifier: Apache-2.0
// As timeout_accumulates, for calls on semaphores and on sockets with a time-out of their own.
// scenario: modes=plain,freezes,restarts,user-restarts ipc
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "timeouts.h"

namespace {

using scenario::the_timeout;
using scenario::TimedCalls;

void add_semaphore(TimedCalls& calls) {
  const int id = SETUP(semget(IPC_PRIVATE, 1, 0600));
  scenario::write_file(scenario::path("objects"), "sem " + std::to_string(id) + "\n");
  calls.add("semtimedop", -1, EAGAIN, [=] {
    sembuf down = {0, -1, 0};
    const long result = syscall(SYS_semtimedop, id, &down, 1, &the_timeout);
    const int error = errno;
    semctl(id, 0, IPC_RMID);
    errno = error;
    return result;
  });
}

int socket_with(int option, int type = SOCK_STREAM) {
  int ends[2];
  SETUP(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends));
  const timeval time = {1, 500000};
  SETUP(setsockopt(ends[0], SOL_SOCKET, option, &time, sizeof time));
  return ends[0];
}

// Sends pieces of that size until no more fit in, and then one that waits.
long send_too_much(int type, std::size_t piece) {
  const int fd = socket_with(SO_SNDTIMEO, type);
  const std::string much(piece, 'x');
  while (send(fd, much.data(), much.size(), MSG_DONTWAIT) > 0) {
  }
  return syscall(SYS_sendto, fd, much.data(), much.size(), 0, nullptr, 0);
}

void add_sockets(TimedCalls& calls) {
  calls.add("recv with SO_RCVTIMEO", -1, EAGAIN, [] {
    char byte = 0;
    return syscall(SYS_recvfrom, socket_with(SO_RCVTIMEO), &byte, 1, 0, nullptr, nullptr);
  });
  calls.add("read with SO_RCVTIMEO", -1, EAGAIN, [] {
    char byte = 0;
    return syscall(SYS_read, socket_with(SO_RCVTIMEO), &byte, 1);
  });
  calls.add("send with SO_SNDTIMEO", -1, EAGAIN, [] { return send_too_much(SOCK_SEQPACKET, 4096); });
  // In large pieces, as a restart fills it: where the program used small ones, which take more of the kernel's memory
  // for each byte, a restarted stream has room for some more, and the call rightly goes through.
  calls.add("send to a stream with SO_SNDTIMEO", -1, EAGAIN, [] { return send_too_much(SOCK_STREAM, 1 << 20); });
}

}  // namespace

int main() {
  scenario::TimedCalls calls;
  add_semaphore(calls);
  add_sockets(calls);
  calls.start();

  scenario::ready_and_wait();

  calls.check();
  return scenario::finish();
}
