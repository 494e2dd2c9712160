// SPDX-License-Identifier: Apache-2.0
// usage: workload READY KIND N    What `bench/checkpoints` saves: sleeps on and on, and makes the file READY once it has
//   threads N     N threads
//   processes N   N processes, itself included
//   files N       N files open (in the directory of READY, deleted by whoever deletes that)
//   memory N      N MiB of random bytes in pages of 4 KiB
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void sleep_on(void) {
  const struct timespec second = {1, 0};
  for (;;) nanosleep(&second, NULL);
}

static void* thread_sleeps(void* nothing) {
  sleep_on();
  return nothing;
}

static int make_threads(long n) {
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 65536);
  for (long i = 1; i < n; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, &small, thread_sleeps, NULL) != 0) return -1;
  }
  return 0;
}

static int make_processes(long n) {
  for (long i = 1; i < n; ++i) {
    const pid_t child = fork();
    if (child < 0) return -1;
    if (child == 0) sleep_on();
  }
  return 0;
}

static int open_files(long n, const char* beside) {
  const struct rlimit files = {(rlim_t)n + 64, (rlim_t)n + 64};
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) return -1;
  for (long i = 0; i < n; ++i) {
    char name[4096];
    if (snprintf(name, sizeof name, "%s.%ld", beside, i) >= (int)sizeof name) return -1;
    if (open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600) < 0) return -1;
  }
  return 0;
}

static int fill_memory(long mebibytes) {
  const size_t words = (size_t)mebibytes * (1 << 20) / sizeof(uint64_t);
  uint64_t* const memory =
      mmap(NULL, words * sizeof *memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return -1;
  madvise(memory, words * sizeof *memory, MADV_NOHUGEPAGE);
  uint64_t state = 88172645463325252;
  for (size_t i = 0; i < words; ++i) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    memory[i] = state;
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const char* const kind = argv[2];
  const long n = atol(argv[3]);
  int made = -1;
  if (strcmp(kind, "threads") == 0) made = make_threads(n);
  if (strcmp(kind, "processes") == 0) made = make_processes(n);
  if (strcmp(kind, "files") == 0) made = open_files(n, argv[1]);
  if (strcmp(kind, "memory") == 0) made = fill_memory(n);
  if (made != 0) return 1;
  const int ready = open(argv[1], O_WRONLY | O_CREAT, 0600);
  if (ready < 0) return 1;
  close(ready);
  sleep_on();
}
