// SPDX-License-Identifier: Apache-2.0
// usage: restless 1 SEED MIB REPORT
// Changes its memory in every way while it is saved: writes, drops, unmaps, maps anew, moves, protects, forks. It knows
// what each page must hold, and looks. REPORT gets "right N" after the N-th look at everything, or "wrong ...".
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kPage = 4096, kAreas = 8, kWords = kPage / 8 };

struct area {
  uint64_t* memory;
  uint32_t* versions;  // what each page holds; 0: nothing but zeros
};
static struct area areas[kAreas];
static size_t pages;  // of each area
static int report;
static uint64_t state;

static uint64_t random_number(uint64_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (state >> 33) % below;
}

static void say(const char* text) {
  char line[65];
  snprintf(line, sizeof line, "%-63.63s\n", text);
  if (pwrite(report, line, 64, 0) != 64) _exit(3);
}

static void wrong(const char* what, size_t area, size_t page) {
  char text[64];
  snprintf(text, sizeof text, "wrong %s: area %zu page %zu", what, area, page);
  say(text);
  _exit(1);
}

static uint64_t word_of(size_t area, size_t page, uint32_t version, size_t word) {
  return version == 0 ? 0 : ((uint64_t)version << 32) ^ (page << 12) ^ (area << 9) ^ word ^ 0x5a5a5a5a00000000u;
}

static void write_page(size_t a, size_t page) {
  const uint32_t version = ++areas[a].versions[page];
  uint64_t* const at = areas[a].memory + page * kWords;
  for (size_t i = 0; i < kWords; ++i) at[i] = word_of(a, page, version, i);
}

static int page_is_right(size_t a, size_t page) {
  const uint64_t* const at = areas[a].memory + page * kWords;
  const uint32_t version = areas[a].versions[page];
  for (size_t i = 0; i < kWords; i += 1 + i % 61) {
    if (at[i] != word_of(a, page, version, i)) return 0;
  }
  return 1;
}

static int all_is_right(const char* who) {
  for (size_t a = 0; a < kAreas; ++a) {
    for (size_t page = 0; page < pages; ++page) {
      if (!page_is_right(a, page)) wrong(who, a, page);
    }
  }
  return 1;
}

static void* map(void* at, size_t count, int flags) {
  void* const memory = mmap(at, count * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (memory == MAP_FAILED) _exit(4);
  return memory;
}

// Some pages of an area, and what they hold from now on: zeros.
static void empty(size_t a, int unmap) {
  const size_t first = random_number(pages), count = 1 + random_number(pages - first) / 4;
  uint64_t* const at = areas[a].memory + first * kWords;
  memset(areas[a].versions + first, 0, count * sizeof(uint32_t));
  if (!unmap) {
    if (madvise(at, count * kPage, MADV_DONTNEED) != 0) _exit(5);
    return;
  }
  if (munmap(at, count * kPage) != 0) _exit(6);
  if (map(at, count, MAP_FIXED_NOREPLACE) != at) _exit(7);
}

static void move_page(void* from, void* to) {
  if (mremap(from, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) _exit(10);
}

// Some pages go elsewhere, and come back. (One by one: areas of which some are tracked can't be moved together.)
static void move(size_t a) {
  const size_t first = random_number(pages - 32);
  char* const at = (char*)(areas[a].memory + first * kWords);
  char* const away = map(NULL, 32, 0);
  for (size_t i = 0; i < 32; ++i) move_page(at + i * kPage, away + i * kPage);
  for (size_t i = 0; i < 32; ++i) move_page(away + i * kPage, at + i * kPage);
}

static void protect_and_back(size_t a) {
  const size_t first = random_number(pages), count = 1 + random_number(pages - first) / 4;
  uint64_t* const at = areas[a].memory + first * kWords;
  if (mprotect(at, count * kPage, PROT_READ) != 0) _exit(8);
  if (!page_is_right(a, first)) wrong("protected", a, first);
  if (mprotect(at, count * kPage, PROT_READ | PROT_WRITE) != 0) _exit(9);
  write_page(a, first);
}

// A child has the memory as it was, whatever its parent does.
static void have_a_child(void) {
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 100; ++i) write_page(random_number(kAreas), random_number(pages));
    _exit(all_is_right("child") ? 0 : 1);
  }
  if (child < 0) return;
  for (int i = 0; i < 100; ++i) write_page(random_number(kAreas), random_number(pages));
  int status = -1;
  while (waitpid(child, &status, 0) != child) {
  }
  if (status != 0) _exit(1);
}

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  state = strtoull(argv[2], NULL, 10);
  pages = strtoull(argv[3], NULL, 10) * 256 / kAreas;
  report = open(argv[4], O_RDWR | O_CREAT, 0600);
  for (size_t a = 0; a < kAreas; ++a) {
    areas[a].memory = map(NULL, pages, 0);
    areas[a].versions = calloc(pages, sizeof(uint32_t));
    for (size_t page = 0; page < pages; ++page) write_page(a, page);
  }
  for (unsigned looks = 1;; ++looks) {
    for (int step = 0; step < 40; ++step) {
      const size_t a = random_number(kAreas);
      const uint64_t what = random_number(40);
      if (what == 0) {
        move(a);
      } else if (what < 3) {
        empty(a, 1);
      } else if (what < 6) {
        empty(a, 0);
      } else if (what < 8) {
        protect_and_back(a);
      } else if (what == 8) {
        have_a_child();
      } else {
        for (int i = 0; i < 20; ++i) write_page(a, random_number(pages));
      }
      const size_t page = random_number(pages);
      if (!page_is_right(a, page)) wrong("page", a, page);
    }
    all_is_right("everything");
    char text[64];
    snprintf(text, sizeof text, "right %u", looks);
    say(text);
  }
}
