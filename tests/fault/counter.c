// SPDX-License-Identifier: Apache-2.0
// usage: counter DIR [seccomp|gate-may-stay]    The victim of the fault tests: counts, and watches itself.
//
// It must never notice anything: in every round its memory, descriptors, mappings, signal mask and pending signals are
// what they were at the start, nobody traces it, and no call of its threads is interrupted. The count goes to
// DIR/count, the first thing that is wrong to DIR/wrong (and it ends with status 1). It ends with status 0 once
// DIR/stop exists.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { kBytes = 1 << 18 };

static char dir[4000];

static int in_dir(const char* name, int flags) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  return open(path, flags | O_CLOEXEC, 0644);
}

static void wrong(const char* what, long found, long expected) {
  char text[300];
  const int length = snprintf(text, sizeof text, "%s: %ld, not %ld (errno %d)\n", what, found, expected, errno);
  const int fd = in_dir("wrong", O_WRONLY | O_CREAT | O_APPEND);
  if (fd < 0 || write(fd, text, (size_t)length) < 0) perror("wrong");
  _exit(1);
}

static void expect(const char* what, long found, long expected) {
  if (found != expected) wrong(what, found, expected);
}

static atomic_int running_threads;

static void* sleeper(void* unused) {
  (void)unused;
  running_threads++;
  for (;;) {
    const struct timespec ts = {0, 2000000};
    expect("nanosleep", syscall(SYS_nanosleep, &ts, NULL), 0);
  }
  return NULL;
}

static void* reader(void* fd) {
  char c;
  running_threads++;
  wrong("read of an empty pipe", syscall(SYS_read, (int)(intptr_t)fd, &c, 1), 0);
  return NULL;
}

static char text[65536], first_maps[65536];

// The whole of a file of /proc in `text`; its length.
static size_t proc(const char* name) {
  const int fd = open(name, O_RDONLY | O_CLOEXEC);
  size_t filled = 0;
  for (ssize_t got; (got = read(fd, text + filled, sizeof text - 1 - filled)) > 0;) filled += (size_t)got;
  close(fd);
  text[filled] = 0;
  return filled;
}

static void keep(const char* name, const char* what) {
  const int fd = in_dir(name, O_WRONLY | O_CREAT | O_TRUNC);
  if (fd < 0 || write(fd, what, strlen(what)) < 0) perror(name);
  close(fd);
}

static uint64_t digest(const char* at, size_t bytes) {
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char)at[i]) * 1099511628211u;
  return hash;
}

static long status_number(const char* field) {
  const char* at = strstr(text, field);
  return at ? strtol(at + strlen(field), NULL, strncmp(field, "Tracer", 6) == 0 ? 10 : 16) : -1;
}

struct view {
  uint64_t maps;
  long descriptors, blocked, caught, ignored;
};

static struct view look(void) {
  struct view view;
  view.maps = digest(text, proc("/proc/self/maps"));
  proc("/proc/self/status");
  view.blocked = status_number("SigBlk:");
  view.caught = status_number("SigCgt:");
  view.ignored = status_number("SigIgn:");
  expect("pending for the thread", status_number("SigPnd:"), 0);
  expect("pending for the process", status_number("ShdPnd:"), 0);
  view.descriptors = 0;
  for (int fd = 0; fd < 1100; fd++) view.descriptors += fcntl(fd, F_GETFD) >= 0 ? fd + 1 : 0;
  return view;
}

// A filter as programs in sandboxes have: what they do not need kills them.
static void confine(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) _exit(3);
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  snprintf(dir, sizeof dir, "%s", argv[1]);
  uint64_t* memory = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int ends[2];
  if (memory == MAP_FAILED || pipe2(ends, O_CLOEXEC) != 0) return 3;
  const int out = in_dir("count", O_RDWR | O_CREAT);
  pthread_t threads[2];
  if (out < 0 || pthread_create(&threads[0], NULL, sleeper, NULL) != 0 ||
      pthread_create(&threads[1], NULL, reader, (void*)(intptr_t)ends[0]) != 0)
    return 3;
  // A Stasis that was killed (-9) can't take its gate away: a mapping or a descriptor of it may stay, no more.
  const char* mode = argc > 2 ? argv[2] : "";
  if (strcmp(mode, "seccomp") == 0) confine();
  const int strict = strcmp(mode, "gate-may-stay") != 0;
  const struct timespec tick = {0, 1000000};
  while (running_threads < 2) nanosleep(&tick, NULL);  // they have their stacks
  look();
  const struct view first = look();
  proc("/proc/self/maps");
  memcpy(first_maps, text, sizeof text);
  for (uint64_t round = 0;; round++) {
    for (size_t i = 0; i < kBytes / sizeof *memory; i += 64) {
      expect("memory", (long)memory[i], round == 0 ? 0 : (long)(i * round));
      memory[i] = i * (round + 1);
    }
    const struct view now = look();
    if (strict && now.maps != first.maps) {
      proc("/proc/self/maps");
      keep("maps.now", text);
      keep("maps.first", first_maps);
      wrong("mappings", (long)now.maps, (long)first.maps);
    }
    if (strict) expect("descriptors", now.descriptors, first.descriptors);
    expect("blocked signals", now.blocked, first.blocked);
    expect("caught signals", now.caught, first.caught);
    expect("ignored signals", now.ignored, first.ignored);
    char line[24];
    snprintf(line, sizeof line, "%-20llu\n", (unsigned long long)round);
    expect("write", pwrite(out, line, 21, 0), 21);
    expect("sleep", nanosleep(&tick, NULL), 0);
    const int stop = in_dir("stop", O_RDONLY);
    if (stop >= 0) return 0;
  }
}
