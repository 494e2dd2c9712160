// SPDX-License-Identifier: Apache-2.0
// The blocking calls of blocking_calls.cc go on with those on sockets, semaphores, queues, event descriptors, locks and
// children.
// scenario: ipc
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <array>

#include "blocking.h"

namespace {

constexpr timespec kLong = {3600, 0};

struct Pair {
  int here = -1;
  int there = -1;
};

Pair make_pair(int type) {
  std::array<int, 2> ends{};
  SETUP(socketpair(AF_UNIX, type, 0, ends.data()));
  return {ends[0], ends[1]};
}

void send_byte(int fd) { SETUP(send(fd, "x", 1, 0)); }

void on_sockets(scenario::BlockingCalls& calls) {
  const Pair stream = make_pair(SOCK_STREAM);
  calls.add(
      "recvfrom",
      [=] {
        char c = 0;
        return syscall(SYS_recvfrom, stream.here, &c, 1, 0, nullptr, nullptr);
      },
      [=] { send_byte(stream.there); });
  const Pair timed = make_pair(SOCK_STREAM);
  const timeval hour = {3600, 0};
  SETUP(setsockopt(timed.here, SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof hour));
  calls.add(
      "recvfrom(SO_RCVTIMEO)",
      [=] {
        char c = 0;
        return syscall(SYS_recvfrom, timed.here, &c, 1, 0, nullptr, nullptr);
      },
      [=] { send_byte(timed.there); });
  const Pair packets = make_pair(SOCK_SEQPACKET);
  calls.add(
      "recvmsg",
      [=] {
        char c = 0;
        iovec part = {&c, 1};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        return syscall(SYS_recvmsg, packets.here, &message, 0);
      },
      [=] { send_byte(packets.there); });
  const int listener = SETUP(socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socklen_t length = sizeof(sa_family_t);  // the kernel chooses an abstract name
  SETUP(bind(listener, reinterpret_cast<sockaddr*>(&address), length));
  SETUP(listen(listener, 4));
  calls.add(
      "accept", [=] { return syscall(SYS_accept, listener, nullptr, nullptr); },
      [=] {
        sockaddr_un name{};
        socklen_t size = sizeof name;
        SETUP(getsockname(listener, reinterpret_cast<sockaddr*>(&name), &size));
        const int client = SETUP(socket(AF_UNIX, SOCK_STREAM, 0));
        SETUP(connect(client, reinterpret_cast<sockaddr*>(&name), size));
      });
}

void on_event_descriptors(scenario::BlockingCalls& calls) {
  const int event = SETUP(eventfd(0, 0));
  calls.add(
      "read(eventfd)",
      [=] {
        std::uint64_t value = 0;
        return syscall(SYS_read, event, &value, 8);
      },
      [=] { SETUP(eventfd_write(event, 1)); });
  const int timer = SETUP(timerfd_create(CLOCK_MONOTONIC, 0));
  const itimerspec hour = {{0, 0}, {3600, 0}};
  SETUP(timerfd_settime(timer, 0, &hour, nullptr));
  calls.add(
      "read(timerfd)",
      [=] {
        std::uint64_t value = 0;
        return syscall(SYS_read, timer, &value, 8);
      },
      [=] {
        const itimerspec soon = {{0, 0}, {0, 1000000}};
        SETUP(timerfd_settime(timer, 0, &soon, nullptr));
      });
  const int watch = SETUP(inotify_init());
  SETUP(inotify_add_watch(watch, scenario::path("").c_str(), IN_DELETE));
  scenario::write_file(scenario::path("watched"), "");
  calls.add(
      "read(inotify)",
      [=] {
        std::array<char, 512> buffer{};
        return syscall(SYS_read, watch, buffer.data(), buffer.size());
      },
      [=] { SETUP(unlink(scenario::path("watched").c_str())); });
  for (const int time_out : {3600000, -1}) {
    const int epoll = SETUP(epoll_create1(0));
    const int source = SETUP(eventfd(0, 0));
    epoll_event interest = {EPOLLIN, {}};
    SETUP(epoll_ctl(epoll, EPOLL_CTL_ADD, source, &interest));
    calls.add(
        time_out < 0 ? "epoll_wait(for ever)" : "epoll_wait(time-out)",
        [=] {
          epoll_event found{};
          return syscall(SYS_epoll_wait, epoll, &found, 1, time_out);
        },
        [=] { SETUP(eventfd_write(source, 1)); });
  }
}

void on_sysv(scenario::BlockingCalls& calls, int semaphores, int queue) {
  const auto change = [=](unsigned short number, short by) {
    sembuf operation = {number, by, 0};
    return syscall(SYS_semop, semaphores, &operation, 1);
  };
  calls.add("semop", [=] { return change(0, -1); }, [=] { SETUP(change(0, 1)); });
  calls.add(
      "semtimedop",
      [=] {
        sembuf operation = {1, -1, 0};
        return syscall(SYS_semtimedop, semaphores, &operation, 1, &kLong);
      },
      [=] { SETUP(change(1, 1)); });
  struct Message {
    long type;
    std::array<char, 8> text;
  };
  calls.add(
      "msgrcv",
      [=] {
        Message message{};
        return syscall(SYS_msgrcv, queue, &message, 8, 0, 0);
      },
      [=] {
        const Message message = {1, {'h', 'i'}};
        SETUP(msgsnd(queue, &message, 8, 0));
      });
}

struct Child {
  pid_t pid = 0;
  int let_go = -1;
};

// A child that ends with status 7 when a byte is written to let_go. It holds a lock on the file `lock` if asked to.
Child make_child(const std::string& lock) {
  std::array<int, 2> ends{};
  SETUP(pipe2(ends.data(), O_CLOEXEC));
  const pid_t pid = SETUP(fork());
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[1]);
    if (!lock.empty()) SETUP(flock(open(lock.c_str(), O_RDWR | O_CREAT, 0600), LOCK_EX));
    scenario::write_file(scenario::path("child." + std::to_string(getpid())), "");
    char c = 0;
    while (read(ends[0], &c, 1) < 0) {
    }
    _exit(7);
  }
  close(ends[0]);
  while (!scenario::exists(scenario::path("child." + std::to_string(pid)))) scenario::pause_ms(1);
  return {pid, ends[1]};
}

void on_children_and_locks(scenario::BlockingCalls& calls) {
  const Child first = make_child("");
  const auto exited_7 = [](long result, int) { return result > 0; };
  calls
      .add(
          "wait4", [=] { return syscall(SYS_wait4, first.pid, nullptr, 0, nullptr); },
          [=] { SETUP(write(first.let_go, "x", 1)); })
      .right = exited_7;
  const Child second = make_child("");
  calls.add(
      "waitid",
      [=] {
        siginfo_t info{};
        const long result = syscall(SYS_waitid, P_PID, second.pid, &info, WEXITED, nullptr);
        return result == 0 && info.si_status == 7 ? 0L : -1L;
      },
      [=] { SETUP(write(second.let_go, "x", 1)); });
  const std::string lock = scenario::path("lock");
  const Child holder = make_child(lock);
  calls.add(
      "flock",
      [=] {
        const int fd = SETUP(open(lock.c_str(), O_RDWR | O_CLOEXEC));
        return syscall(SYS_flock, fd, LOCK_EX);
      },
      [=] {
        SETUP(write(holder.let_go, "x", 1));
        waitpid(holder.pid, nullptr, 0);
      });
  const int mine = SETUP(open(scenario::path("ofd").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct flock whole = {};
  whole.l_type = F_WRLCK;
  SETUP(fcntl(mine, F_OFD_SETLK, &whole));
  calls.add(
      "fcntl(F_OFD_SETLKW)",
      [=] {
        const int fd = SETUP(open(scenario::path("ofd").c_str(), O_RDWR | O_CLOEXEC));
        struct flock wanted = {};
        wanted.l_type = F_WRLCK;
        return syscall(SYS_fcntl, fd, F_OFD_SETLKW, &wanted);
      },
      [=] { close(mine); });
}

}  // namespace

int main() {
  const int semaphores = SETUP(semget(IPC_PRIVATE, 2, 0600));
  const int queue = SETUP(msgget(IPC_PRIVATE, 0600));
  scenario::write_file(scenario::path("objects"),
                       "sem " + std::to_string(semaphores) + "\nmsg " + std::to_string(queue) + "\n");
  scenario::BlockingCalls calls;
  on_children_and_locks(calls);  // first, as children inherit what is open
  on_sockets(calls);
  on_event_descriptors(calls);
  on_sysv(calls, semaphores, queue);
  calls.start();

  scenario::ready_and_wait();

  calls.check_and_release();
  std::printf("%zu blocking calls\n", calls.size());
  semctl(semaphores, 0, IPC_RMID);
  msgctl(queue, IPC_RMID, nullptr);
  return scenario::finish();
}
