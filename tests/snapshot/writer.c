// SPDX-License-Identifier: Apache-2.0
// usage: writer PROCESSES THREADS MIB FILE    Writes memory as fast as it can, in an order that every inconsistent
// snapshot breaks. Ends only when it finds something wrong (status 1; said on stderr and in FILE), or is killed. FILE
// always has 64 bytes: how many times everything was found right.
//
// The processes have THREADS threads together, and private and shared memory. The pages, of every kind of memory, are
// dealt out to the threads of a process at random. A thread goes through its own again and again, generation by
// generation; before it writes a page it knows everything that must be there:
//   - the generation before, whole, in eight places of the page; its sequence number, taken when it was written from
//     the one counter of all threads, within that generation's bounds;
//   - so a page saved earlier or later than the thread's registers is found out when the thread comes to it, at the
//     latest one generation after the restart.
// From its right neighbour it remembers the number that was published last: that never goes back, and all numbers taken
// later are greater. At a meeting of all threads: the counter is the number of writes that were made, each thread's
// checksum is that of its pages (the neighbour counts it), and what is never written is what it was.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  kPage = 4096,
  kWords = kPage / 8,
  kPlaces = 8,
  kStride = kWords / kPlaces,
  kGenerationsTillMeeting = 8,
  kMaxThreads = 64
};
// Words of a page; the places are words kFirstPlace + n * kStride.
enum { kSequence = 0, kGeneration = 1, kSeenOfNeighbour = 2, kFirstPlace = 3, kConstant = 5 };

typedef struct {
  _Atomic uint64_t published;  // the sequence number of the last page written whole
  uint64_t written;            // pages
  uint64_t checksum;           // of all places of all pages
  uint64_t generation;
  char apart[kPage - 32];
} Public;

static Public* people;             // in shared memory
static _Atomic uint64_t* counter;  // on a page of its own, in shared memory
static struct {
  pthread_barrier_t meeting;
  uint64_t found_right;
}* common;                                  // in shared memory
static uint64_t **by_chance, **by_address;  // of the threads of this process
static size_t threads, pages_each;
static size_t first_here, threads_here;  // of this process
static int file;

static void tell(const char* text) {
  char line[64];
  memset(line, ' ', sizeof line);
  line[sizeof line - 1] = '\n';
  memcpy(line, text, strnlen(text, sizeof line - 1));
  if (pwrite(file, line, sizeof line, 0) != sizeof line) _exit(3);
}

__attribute__((format(printf, 1, 2))) static void wrong(const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  dprintf(2, "wrong: %s\n", text);
  char line[64];
  snprintf(line, sizeof line, "wrong %.50s", text);
  tell(line);
  _exit(1);
}

static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

static uint64_t value_of(const uint64_t* page, uint64_t sequence, uint64_t generation) {
  return mix((uintptr_t)page ^ mix(sequence) ^ (generation << 40));
}

static uint64_t constant_of(const uint64_t* page, size_t word) { return mix((uintptr_t)page + word * 77); }

static int is_constant(size_t word) { return word >= kConstant && word % kStride != kFirstPlace; }

static volatile uint64_t* live(uint64_t* page) { return page; }

// The page is whole and of that generation; returns its sequence number.
static uint64_t check_page(size_t thread, uint64_t* page, uint64_t generation) {
  volatile uint64_t* const words = live(page);
  const uint64_t sequence = words[kSequence];
  if (words[kGeneration] != generation) {
    wrong("thread %zu: page %p is of generation %lu instead of %lu", thread, (void*)page,
          (unsigned long)words[kGeneration], (unsigned long)generation);
  }
  const uint64_t value = value_of(page, sequence, generation);
  for (size_t n = 0; n < kPlaces; ++n) {
    if (words[kFirstPlace + n * kStride] != value + n) {
      wrong("thread %zu: page %p is torn at place %zu (generation %lu)", thread, (void*)page, n,
            (unsigned long)generation);
    }
  }
  return sequence;
}

static void write_page(uint64_t* page, uint64_t sequence, uint64_t generation, uint64_t seen) {
  volatile uint64_t* const words = live(page);
  const uint64_t value = value_of(page, sequence, generation);
  words[kSequence] = sequence;
  words[kGeneration] = generation;
  words[kSeenOfNeighbour] = seen;
  for (size_t n = 0; n < kPlaces; ++n) words[kFirstPlace + n * kStride] = value + n;
}

static uint64_t checksum_of(size_t thread) {
  uint64_t sum = 0;
  for (size_t i = 0; i < pages_each; ++i) {
    uint64_t* const page = by_chance[(thread - first_here) * pages_each + i];
    sum += value_of(page, check_page(thread, page, people[thread].generation), people[thread].generation);
  }
  return sum;
}

// What nobody writes, a sixteenth of the pages each time.
static void check_constants(size_t thread, uint64_t generation) {
  for (size_t i = generation / kGenerationsTillMeeting % 16; i < pages_each; i += 16) {
    const uint64_t* const page = by_chance[(thread - first_here) * pages_each + i];
    for (size_t word = 0; word < kWords; ++word) {
      if (is_constant(word) && page[word] != constant_of(page, word)) {
        wrong("thread %zu: word %zu of page %p has changed, though nobody writes it", thread, word, (const void*)page);
      }
    }
  }
}

// Everybody stands still: what must fit together over all threads.
static void meet(size_t thread, uint64_t generation) {
  const size_t neighbour = first_here + (thread - first_here + 1) % threads_here;  // who can look at its pages
  pthread_barrier_wait(&common->meeting);
  const uint64_t sum = checksum_of(neighbour);
  if (sum != people[neighbour].checksum) wrong("thread %zu: the checksum of all pages is another", neighbour);
  check_constants(neighbour, generation);
  if (thread == 0) {
    uint64_t written = 0;
    for (size_t i = 0; i < threads; ++i) written += people[i].written;
    if (written != *counter) {
      wrong("%lu sequence numbers were taken and %lu pages written", (unsigned long)*counter, (unsigned long)written);
    }
  }
  if (pthread_barrier_wait(&common->meeting) == PTHREAD_BARRIER_SERIAL_THREAD) {
    char line[64];
    snprintf(line, sizeof line, "right %lu", (unsigned long)++common->found_right);
    tell(line);
  }
}

static void storm(size_t me) {
  Public* const mine = &people[me];
  const Public* const neighbour = &people[(me + 1) % threads];
  uint64_t seen = 0, first_of_last = 0, last_of_last = 0;
  // What is public of us must also be what we know ourselves, on the stack and in registers.
  uint64_t written = mine->written, checksum = mine->checksum, last = mine->published;
  for (uint64_t generation = 1;; ++generation) {
    uint64_t** const order = (generation % 2 ? by_chance : by_address) + (me - first_here) * pages_each;
    uint64_t first = 0;
    for (size_t i = 0; i < pages_each; ++i) {
      uint64_t* const page = order[i];
      const uint64_t before = check_page(me, page, generation - 1);
      if (generation > 1 && (before < first_of_last || before > last_of_last)) {
        wrong("thread %zu: page %p has a sequence number of another generation", me, (void*)page);
      }
      const uint64_t now = neighbour->published;
      if (now < seen)
        wrong("thread %zu: its neighbour's number went back from %lu to %lu", me, (unsigned long)seen,
              (unsigned long)now);
      seen = now;
      if (mine->published != last || mine->written != written || mine->checksum != checksum) {
        wrong("thread %zu: what it published is not what it knows", me);
      }
      const uint64_t sequence = ++*counter;
      if (sequence <= last || sequence <= seen) {
        wrong("thread %zu: got number %lu after its own %lu and its neighbour's %lu", me, (unsigned long)sequence,
              (unsigned long)last, (unsigned long)seen);
      }
      if (i == 0) first = sequence;
      write_page(page, sequence, generation, seen);
      checksum += value_of(page, sequence, generation) - value_of(page, before, generation - 1);
      mine->checksum = checksum;
      mine->written = ++written;
      mine->published = last = sequence;
    }
    first_of_last = first;
    last_of_last = last;
    mine->generation = generation;
    if (generation % kGenerationsTillMeeting == 0) meet(me, generation);
  }
}

static void* storm_on(void* which) {
  storm((size_t)which);
  return NULL;
}

static uint64_t* map(size_t bytes, int flags, int fd) {
  uint64_t* const memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) {
    perror("writer: mmap");
    exit(2);
  }
  return memory;
}

typedef struct {
  uint64_t* start;
  size_t size;
} Area;

// Half of it as most memory is, the rest in equal parts what a snapshot may have to treat in another way. Shared areas
// are made before the processes part, each of which has its own piece of them.
static void map_shared(size_t part, size_t processes, Area* areas) {
  const int shared_file = memfd_create("writer", MFD_CLOEXEC);
  if (shared_file < 0 || ftruncate(shared_file, (off_t)(part * processes)) != 0) exit(2);
  areas[0] = (Area){map(part * processes, MAP_SHARED | MAP_ANONYMOUS, -1), part};
  areas[1] = (Area){map(part * processes, MAP_SHARED, shared_file), part};
}

static void map_private(size_t part, Area* areas) {
  const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
  areas[0] = (Area){map(4 * part, anonymous, -1), 4 * part};
  areas[1] = (Area){map(part, anonymous, -1), part};
  areas[2] = (Area){map(part, anonymous, -1), part};
  madvise(areas[0].start, areas[0].size, MADV_NOHUGEPAGE);
  madvise(areas[1].start, areas[1].size, MADV_HUGEPAGE);
  madvise(areas[2].start, areas[2].size, MADV_DONTFORK);
}

static int address_order(const void* left, const void* right) {
  const uintptr_t a = (uintptr_t)(*(uint64_t* const*)left), b = (uintptr_t)(*(uint64_t* const*)right);
  return a < b ? -1 : a > b;
}

static void fill(size_t thread) {
  for (size_t i = 0; i < pages_each; ++i) {
    uint64_t* const page = by_chance[(thread - first_here) * pages_each + i];
    for (size_t word = 0; word < kWords; ++word) page[word] = constant_of(page, word);
    write_page(page, 0, 0, 0);
    people[thread].checksum += value_of(page, 0, 0);
  }
}

// Deals the pages out; by address, those of each thread ascend.
static void deal(const Area* areas, size_t count) {
  size_t bytes = 0, pages = 0;
  for (size_t i = 0; i < count; ++i) bytes += areas[i].size;
  by_chance = malloc(bytes / kPage * sizeof *by_chance);
  by_address = malloc(bytes / kPage * sizeof *by_address);
  if (!by_chance || !by_address) exit(2);
  for (size_t i = 0; i < count; ++i) {
    for (size_t at = 0; at < areas[i].size; at += kPage) by_chance[pages++] = areas[i].start + at / 8;
  }
  uint64_t random = 1;
  for (size_t i = pages - 1; i > 0; --i) {
    random = mix(random + i);
    const size_t other = random % (i + 1);
    uint64_t* const page = by_chance[i];
    by_chance[i] = by_chance[other];
    by_chance[other] = page;
  }
  pages_each = pages / threads_here;
  memcpy(by_address, by_chance, pages * sizeof *by_chance);
}

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const size_t processes = strtoul(argv[1], NULL, 10);
  threads = strtoul(argv[2], NULL, 10);
  const size_t bytes = strtoul(argv[3], NULL, 10) << 20;
  file = open(argv[4], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (processes == 0 || threads % processes != 0 || threads == 0 || bytes == 0 || file < 0) return 2;
  threads_here = threads / processes;
  people = (Public*)map(threads * sizeof *people, MAP_SHARED | MAP_ANONYMOUS, -1);
  counter = (_Atomic uint64_t*)map(kPage, MAP_SHARED | MAP_ANONYMOUS, -1);
  common = (void*)map(kPage, MAP_SHARED | MAP_ANONYMOUS, -1);
  pthread_barrierattr_t across;
  pthread_barrierattr_init(&across);
  pthread_barrierattr_setpshared(&across, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&common->meeting, &across, (unsigned)threads);

  const size_t part = bytes / processes / 8 / kPage * kPage;
  Area areas[5];
  map_shared(part, processes, areas);
  size_t which = 0;
  for (size_t i = 1; i < processes && which == 0; ++i) {
    const pid_t child = fork();
    if (child < 0) return 2;
    if (child == 0) which = i;
  }
  first_here = which * threads_here;
  areas[0].start += which * part / 8;
  areas[1].start += which * part / 8;
  map_private(part, areas + 2);
  deal(areas, sizeof areas / sizeof *areas);
  for (size_t i = 0; i < threads_here; ++i) {
    qsort(by_address + i * pages_each, pages_each, sizeof *by_address, address_order);
    fill(first_here + i);
  }
  if (which == 0) tell("right 0");
  for (size_t i = 1; i < threads_here; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, storm_on, (void*)(first_here + i)) != 0) return 2;
  }
  storm(first_here);
}
