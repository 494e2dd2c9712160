// SPDX-License-Identifier: Apache-2.0
// usage: workload READY KIND N ...
// What `bench/checkpoints` saves: sleeps on and on, and makes the file READY once it has
//   threads N     N threads
//   processes N   N processes, itself included
//   files N       N files open (in the directory of READY, deleted by whoever deletes that)
//   memory N [FILL] [PAGES]   N MiB in pages of 4 KiB: random bytes; "half": every other 512 bytes are zeros (tables
//                 that are not full); "text": such as LZ4 halves with effort. PAGES of them are written anew each
//                 second, a word in each, at random; "max": as many as go. The file READY.watch tells how it fares
//                 meanwhile (struct watch).
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
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

// Shared with whoever measures.
static struct watch {
  _Atomic uint64_t worst_gap_ns;  // between two looks at the clock of a thread that looks every 100 us; may be set to 0
  _Atomic uint64_t written;       // pages
  _Atomic uint64_t wanted;        // pages to be written at once, by whoever measures; 0 when that is done
}* watch;

static uint64_t* memory;
static size_t words;

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void* look_at_the_clock(void* nothing) {
  const struct timespec moment = {0, 100000};
  for (uint64_t last = now_ns();;) {
    nanosleep(&moment, NULL);
    const uint64_t now = now_ns();
    if (now - last > watch->worst_gap_ns) watch->worst_gap_ns = now - last;
    last = now;
  }
  return nothing;
}

static uint64_t next_random(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  return *state ^= *state << 17;
}

static void write_pages(uint64_t count, uint64_t* state) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t random = next_random(state);
    ((volatile uint64_t*)memory)[random % words] = random;
  }
  watch->written += count;
}

static void* keep_writing(void* pages) {
  const struct timespec moment = {0, 10000000};
  const uint64_t each = *(const uint64_t*)pages;
  for (uint64_t state = 1;;) {
    if (each == UINT64_MAX) {
      write_pages(1024, &state);
      continue;
    }
    nanosleep(&moment, NULL);
    write_pages(each / 100, &state);
    if (watch->wanted) {
      write_pages(watch->wanted, &state);
      watch->wanted = 0;
    }
  }
  return NULL;
}

static int start_watching(const char* beside, const char* pages) {
  static uint64_t each;
  each = strcmp(pages, "max") == 0 ? UINT64_MAX : strtoul(pages, NULL, 10);
  char name[4096];
  if (snprintf(name, sizeof name, "%s.watch", beside) >= (int)sizeof name) return -1;
  const int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, 4096) != 0) return -1;
  watch = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (watch == MAP_FAILED) return -1;
  pthread_t thread;
  return pthread_create(&thread, NULL, look_at_the_clock, NULL) != 0 ||
                 pthread_create(&thread, NULL, keep_writing, &each) != 0
             ? -1
             : 0;
}

static int fill_memory(long mebibytes, const char* fill) {
  words = (size_t)mebibytes * (1 << 20) / sizeof(uint64_t);
  memory = mmap(NULL, words * sizeof *memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return -1;
  madvise(memory, words * sizeof *memory, MADV_NOHUGEPAGE);
  uint64_t state = 88172645463325252;
  const int kind = strcmp(fill, "text") == 0 ? 2 : strcmp(fill, "half") == 0;
  for (size_t i = 0; i < words; ++i) {
    const uint64_t random = next_random(&state);
    memory[i] = kind == 0 || (kind == 1 && i / 64 % 2) ? random
                : kind == 1                            ? 0
                : i % 2                                ? (random % 64) * 0x0101010101010101
                                                       : random & 0x0f0f0000000f0f0f;
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) return 2;
  const char* const kind = argv[2];
  const long n = atol(argv[3]);
  int made = -1;
  if (strcmp(kind, "threads") == 0) made = make_threads(n);
  if (strcmp(kind, "processes") == 0) made = make_processes(n);
  if (strcmp(kind, "files") == 0) made = open_files(n, argv[1]);
  if (strcmp(kind, "memory") == 0) {
    made = fill_memory(n, argc > 4 ? argv[4] : "random");
    if (made == 0) made = start_watching(argv[1], argc > 5 ? argv[5] : "0");
  }
  if (made != 0) return 1;
  const int ready = open(argv[1], O_WRONLY | O_CREAT, 0600);
  if (ready < 0) return 1;
  close(ready);
  sleep_on();
}
