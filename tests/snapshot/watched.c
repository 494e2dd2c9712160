// SPDX-License-Identifier: Apache-2.0
// usage: watched DIR [gate-may-stay] [child-ends] [default-action]
// A program that looks for traces of a snapshot in itself while it writes its memory: children, wait statuses, SIGCHLD,
// what its children used, mappings, descriptors. Counts its rounds in DIR/count, says in DIR/wrong what it found (and
// ends with status 1), ends with status 0 once DIR/stop exists. child-ends: a child ends in each round, and its SIGCHLD
// waits, blocked, until the next; default-action: for SIGCHLD.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kBytes = 24 << 20, kPage = 4096, kShared = 1 << 20, kSecret = 1 << 16 };

static char dir[4000];
static int strict;  // a Stasis that was killed (-9) may leave a mapping of its gate
static int child_ends, default_action;
static pid_t last_child;
static volatile sig_atomic_t child_signals;

static void count_signal(int signal) {
  (void)signal;
  child_signals++;
}

static int in_dir(const char* name, int flags) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  return open(path, flags | O_CLOEXEC, 0644);
}

static void expect(const char* what, long found, long expected) {
  if (found == expected) return;
  char text[300];
  const int length = snprintf(text, sizeof text, "%s: %ld, not %ld (errno %d)\n", what, found, expected, errno);
  const int fd = in_dir("wrong", O_WRONLY | O_CREAT | O_APPEND);
  if (fd < 0 || write(fd, text, (size_t)length) < 0) perror("wrong");
  _exit(1);
}

static char text[1 << 16], first_maps[1 << 16];

static size_t proc(const char* name) {
  const int fd = open(name, O_RDONLY | O_CLOEXEC);
  size_t filled = 0;
  for (ssize_t got; (got = read(fd, text + filled, sizeof text - 1 - filled)) > 0;) filled += (size_t)got;
  close(fd);
  text[filled] = 0;
  return filled;
}

// Addresses and rights: the numbers of anonymous files are others after a restart.
static const char* mappings(void) {
  proc("/proc/self/maps");
  char* to = text;
  for (const char* line = text; *line;) {
    const size_t kept = strcspn(strchr(line, ' ') + 1, " ") + (size_t)(strchr(line, ' ') + 1 - line);
    const char* const next = strchr(line, '\n') + 1;
    memmove(to, line, kept);
    to += kept;
    *to++ = '\n';
    line = next;
  }
  *to = 0;
  return text;
}

static long descriptors(void) {
  long sum = 0;
  for (int fd = 0; fd < 64; fd++) sum += fcntl(fd, F_GETFD) >= 0 ? fd + 1 : 0;
  return sum;
}

// Its SIGCHLD waits when this returns.
static void have_a_child_end(void) {
  last_child = fork();
  if (last_child == 0) _exit(7);
  siginfo_t ended;
  while (waitid(P_PID, (id_t)last_child, &ended, WEXITED | WNOWAIT) != 0) {
    if (errno != EINTR) _exit(3);
  }
}

static void expect_end_of_last_child(void) {
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  siginfo_t info = {0};
  const struct timespec now = {0, 0};
  expect("SIGCHLD that waits", sigtimedwait(&child, &info, &now), SIGCHLD);
  expect("its code", info.si_code, CLD_EXITED);
  expect("its child", info.si_pid, last_child);
  expect("its user", info.si_uid, (long)getuid());
  expect("its status", info.si_status, 7);
  int status = 0;
  expect("waitpid of the child", waitpid(last_child, &status, WNOHANG), last_child);
  expect("status of the child", WEXITSTATUS(status), 7);
  expect("a second SIGCHLD", sigtimedwait(&child, &info, &now), -1);
}

static void look(long fds, int ends[2]) {
  int status;
  char c;
  if (child_ends) expect_end_of_last_child();
  expect("children", (long)proc("/proc/thread-self/children"), 0);
  expect("waitpid", waitpid(-1, &status, __WALL | WNOHANG) < 0 ? errno : 0, ECHILD);
  struct rusage used;
  getrusage(RUSAGE_CHILDREN, &used);
  if (!child_ends) expect("memory of children", used.ru_maxrss, 0);
  if (!child_ends) expect("time of children", used.ru_stime.tv_usec + used.ru_utime.tv_usec + used.ru_minflt, 0);
  expect("SIGCHLD", child_signals, 0);
  struct sigaction action;
  sigaction(SIGCHLD, NULL, &action);
  expect("action of SIGCHLD",
         action.sa_handler == (default_action ? SIG_DFL : count_signal) &&
             (action.sa_flags & (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT)) == (SA_RESTART | SA_NOCLDSTOP),
         1);
  if (child_ends) have_a_child_end();
  expect("descriptors", descriptors(), fds);
  if (strict) expect("mappings", strcmp(mappings(), first_maps), 0);
  // Its end is seen at once: nobody else holds the pipe open.
  close(ends[1]);
  expect("end of the pipe", read(ends[0], &c, 1), 0);
  close(ends[0]);
  if (pipe2(ends, O_CLOEXEC) != 0) _exit(3);
}

// The generation in every page, and one for the kernel to write.
static void write_all(uint64_t* memory, uint64_t generation, int zeros) {
  for (size_t page = 0; page < kBytes / kPage; page++) {
    uint64_t* const at = memory + page * (kPage / 8);
    expect("page", (long)at[0], (long)(generation - 1));
    at[0] = at[8] = generation;
  }
  expect("read into memory", read(zeros, memory + 16, 64), 64);
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  snprintf(dir, sizeof dir, "%s", argv[1]);
  strict = 1;
  for (int i = 2; i < argc; i++) {
    if (strcmp(argv[i], "gate-may-stay") == 0) strict = 0;
    if (strcmp(argv[i], "child-ends") == 0) child_ends = 1;
    if (strcmp(argv[i], "default-action") == 0) default_action = 1;
  }
  uint64_t* const memory = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint64_t* const shared = mmap(NULL, kShared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  uint64_t* const own = mmap(NULL, kSecret, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint64_t* const wiped = mmap(NULL, kSecret, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (madvise(own, kSecret, MADV_DONTFORK) != 0 || madvise(wiped, kSecret, MADV_WIPEONFORK) != 0) return 3;
  struct sigaction action = {.sa_handler = default_action ? SIG_DFL : count_signal,
                             .sa_flags = SA_RESTART | SA_NOCLDSTOP};
  sigaction(SIGCHLD, &action, NULL);
  if (child_ends) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
  }
  const int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  const int out = in_dir("count", O_RDWR | O_CREAT);
  int ends[2];
  if (out < 0 || pipe2(ends, O_CLOEXEC) != 0) return 3;
  mappings();
  memcpy(first_maps, mappings(), sizeof text);
  const long fds = descriptors();
  const struct timespec tick = {0, 1000000};
  if (child_ends) have_a_child_end();
  for (uint64_t round = 1;; round++) {
    write_all(memory, round, zeros);
    expect("shared memory", (long)shared[0], (long)(round - 1));
    expect("memory that children don't get", (long)own[0], (long)(round - 1));
    expect("memory that children get wiped", (long)wiped[0], (long)(round - 1));
    shared[0] = own[0] = wiped[0] = round;
    look(fds, ends);
    char line[32];
    const int length = snprintf(line, sizeof line, "%lu\n", (unsigned long)round);
    if (pwrite(out, line, (size_t)length, 0) != length) return 3;
    const int stop = in_dir("stop", O_RDONLY);
    if (stop >= 0) return 0;
    nanosleep(&tick, NULL);
  }
}
