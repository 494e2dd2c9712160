// SPDX-License-Identifier: Apache-2.0
// Locks on files: those of an open file (flock, OFD), those of a process (POSIX), shared and exclusive, of parts, held
// by several processes beside one another; one that is waited for is given in the end.
#include <sys/file.h>

#include "tree.h"

namespace {

std::string file_name(const char* name) { return scenario::path(name); }

int opened(const char* name) { return SETUP(open(file_name(name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)); }

struct flock range(short type, off_t start, off_t length) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return lock;
}

int lock_range(int fd, int command, short type, off_t start, off_t length) {
  struct flock lock = range(type, start, length);
  return fcntl(fd, command, &lock);
}

// Who keeps us from locking it exclusively: a process, 0 for nobody, -1 for an open file.
long in_the_way(int fd, int command, off_t start, off_t length) {
  struct flock lock = range(F_WRLCK, start, length);
  if (fcntl(fd, command, &lock) != 0) return -2;
  return lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

}  // namespace

int main() {
  const int whole = opened("flock"), ofd = opened("ofd"), parts = opened("parts"), waited = opened("waited");
  SETUP(flock(whole, LOCK_EX));
  SETUP(lock_range(ofd, F_OFD_SETLK, F_WRLCK, 100, 50));
  SETUP(lock_range(ofd, F_OFD_SETLK, F_RDLCK, 1000, 0));
  SETUP(lock_range(parts, F_SETLK, F_WRLCK, 0, 10));
  SETUP(lock_range(parts, F_SETLK, F_RDLCK, 20, 10));
  SETUP(flock(waited, LOCK_EX));

  const int shared = opened("shared");
  SETUP(flock(shared, LOCK_SH));
  int fd_in_child = -1;
  // It has the parent's open file, and so its lock; POSIX locks it has of its own.
  scenario::Member child(
      [&] {
        fd_in_child = opened("shared");
        SETUP(flock(fd_in_child, LOCK_SH));
        SETUP(lock_range(parts, F_SETLK, F_WRLCK, 100, 10));
        SETUP(lock_range(parts, F_SETLK, F_RDLCK, 20, 5));
      },
      [&](char question) -> long {
        switch (question) {
          case 'w':
            return flock(opened("flock"), LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK;
          case 'i':
            return flock(whole, LOCK_EX | LOCK_NB);  // it is its own, by inheritance
          case 'p':
            return in_the_way(parts, F_GETLK, 0, 5);
          case 's':
            return in_the_way(parts, F_GETLK, 25, 5);
          case 'n':
            return in_the_way(parts, F_GETLK, 10, 10);
          case 'o':
            return in_the_way(opened("ofd"), F_OFD_GETLK, 120, 1);
          case 'r':
            return lock_range(opened("ofd"), F_OFD_SETLK, F_RDLCK, 2000, 1);
          case 'u':
            return flock(fd_in_child, LOCK_UN);
          default:
            return -1;
        }
      });
  // It waits for a lock while it is saved.
  scenario::Member waiter([] {},
                          [](char question) -> long {
                            if (question != 'l') return -1;
                            return flock(opened("waited"), LOCK_EX);
                          });
  const pid_t sleeper = SETUP(fork());
  if (sleeper == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(flock(opened("waited"), LOCK_EX) == 0 ? 9 : 1);
  }

  scenario::ready_and_wait();

  CHECK_EQ(child.ask('w'), 1);
  CHECK_EQ(child.ask('i'), 0);
  CHECK_EQ(child.ask('p'), getpid());
  CHECK_EQ(child.ask('s'), getpid());
  CHECK_EQ(child.ask('n'), 0);
  CHECK_EQ(child.ask('o'), -1);
  CHECK_EQ(child.ask('r'), 0);
  CHECK_EQ(in_the_way(parts, F_GETLK, 100, 1), child.pid());
  CHECK_EQ(in_the_way(parts, F_GETLK, 20, 5), child.pid());
  CHECK_EQ(in_the_way(parts, F_GETLK, 0, 10), 0);
  CHECK(flock(shared, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK, "the child's shared lock is lost");
  CHECK_EQ(child.ask('u'), 0);
  CHECK_EQ(flock(shared, LOCK_EX | LOCK_NB), 0);
  int status = 0;
  CHECK_EQ(waitpid(sleeper, &status, WNOHANG), 0);
  CHECK_EQ(flock(waited, LOCK_UN), 0);
  CHECK_EQ(waitpid(sleeper, &status, 0), sleeper);
  CHECK_EQ(WEXITSTATUS(status), 9);
  CHECK_EQ(waiter.ask('l'), 0);
  child.end();
  waiter.end();
  return scenario::finish();
}
