// SPDX-License-Identifier: Apache-2.0
// Processes that share memory, descriptor table, working directory or signal actions (CLONE_VM, FILES, FS, SIGHAND)
// still share just that afterwards; an open file that parent and child have by fork has one offset.
#include <sched.h>

#include <array>

#include "tree.h"

using scenario::Member;

namespace {

volatile long shared_cell = 1;
long private_cell = 1;

long working_directory_is_root() {
  char text[256] = "";
  return getcwd(text, sizeof text) != nullptr && std::strcmp(text, "/") == 0;
}

long ignores_usr2() {
  struct sigaction action = {};
  SETUP(sigaction(SIGUSR2, nullptr, &action));
  return action.sa_handler == SIG_IGN;
}

int log_file = -1;

long answer(char question) {
  switch (question) {
    case 'f': {  // opens the next free descriptor
      return open("/dev/null", O_RDONLY);
    }
    case 'd':
      return chdir("/");
    case 'u':
      return umask(027);
    case 'w':
      return write(log_file, "child\n", 6);
    case 'i':
      return ignores_usr2();
    case 'c':
      return ++private_cell;
    default:
      return -1;
  }
}

alignas(16) std::array<char, 65536> stack;

int raise_shared(void*) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (shared_cell != 100) usleep(1000);
  signal(SIGUSR2, SIG_IGN);
  shared_cell = 101;
  while (shared_cell != 102) usleep(1000);
  _exit(9);
}

}  // namespace

int main() {
  log_file = open(scenario::path("log").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  SETUP(log_file);
  SETUP(chdir("/tmp"));
  Member files([] {}, answer, CLONE_FILES);
  Member fs([] {}, answer, CLONE_FS);
  Member plain([] {}, answer);
  const pid_t vm = clone(raise_shared, stack.data() + stack.size(), CLONE_VM | CLONE_SIGHAND | SIGCHLD, nullptr);
  SETUP(vm);
  CHECK_EQ(ignores_usr2(), 0L);
  CHECK_EQ(write(log_file, "root\n", 5), 5);

  scenario::ready_and_wait();

  // Memory.
  shared_cell = 100;
  scenario::wait_until([] { return shared_cell == 101; });
  CHECK_EQ(shared_cell, 101L);
  CHECK_EQ(plain.ask('c'), 2L);
  CHECK_EQ(private_cell, 1L);
  // Signal actions: the child that shares the memory has changed ours with its own, and nobody else's.
  CHECK(ignores_usr2() == 1, "a signal action of the sharing child is not ours");
  CHECK_EQ(plain.ask('i'), 0L);
  CHECK_EQ(fs.ask('i'), 0L);
  // Descriptors: what it opens is there, at the same number; what the plain child opens is not.
  const long fd = files.ask('f');
  CHECK(fd > 2 && fcntl(static_cast<int>(fd), F_GETFD) >= 0, "descriptor %ld of the sharing child is not ours", fd);
  const long other = plain.ask('f');
  CHECK(other > 2, "the plain child can't open: %ld", other);
  // The open file description of a file inherited by fork.
  CHECK_EQ(plain.ask('w'), 6L);
  CHECK_EQ(lseek(log_file, 0, SEEK_CUR), 11);
  // Working directory and umask.
  CHECK_EQ(plain.ask('d'), 0L);
  CHECK(!working_directory_is_root(), "chdir of the plain child was ours");
  CHECK_EQ(fs.ask('d'), 0L);
  CHECK(working_directory_is_root(), "chdir of the sharing child was not ours");
  fs.ask('u');
  CHECK_EQ(umask(022), 027u);
  shared_cell = 102;
  int status = 0;
  CHECK_EQ(waitpid(vm, &status, 0), vm);
  CHECK_EQ(status, 9 << 8);
  CHECK_EQ(plain.end(), 7 << 8);
  CHECK_EQ(fs.end(), 7 << 8);
  return scenario::finish();
}
