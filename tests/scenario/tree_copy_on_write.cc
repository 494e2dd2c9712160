// SPDX-License-Identifier: Apache-2.0
// Pages that children inherited and nobody has written since are one page before and after; what parent and children
// each wrote or gave back since is their own.
#include <fcntl.h>
#include <sys/mman.h>

#include <fstream>

#include "tree.h"

using scenario::Member;

namespace {

const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
constexpr std::size_t kPages = 600;

char* memory = nullptr;
char* constant = nullptr;  // can't be written any more
char* uneven = nullptr;    // of which parent and child unmapped and protected different parts
constexpr std::size_t kUneven = 40;
char* file = nullptr;  // a private mapping of a file

char* page_of(std::size_t i) { return memory + i * page; }

void write_page(std::size_t i, char who) { std::memset(page_of(i), who, page); }

// How many pages are wholly what they should be.
long right_pages(const std::function<char(std::size_t)>& wanted) {
  long right = 0;
  for (std::size_t i = 0; i < kPages; ++i) {
    right += page_of(i)[0] == wanted(i) && std::memcmp(page_of(i), page_of(i) + 1, page - 1) == 0;
  }
  return right;
}

char parents(std::size_t i) {
  if (i >= 100 && i < 110) return 'P';
  return i >= 500 && i < 520 ? 0 : 'a';
}
char childs(std::size_t i) {
  if (i >= 100 && i < 110) return 'a';  // as it was before the parent wrote
  if (i >= 200 && i < 230) return 'C';
  if (i >= 300 && i < 350) return 0;  // given back
  return 'a';
}
char others(std::size_t i) { return i % 7 == 3 ? 'G' : childs(i); }

void give_back(std::size_t first, std::size_t count) { SETUP(madvise(page_of(first), count * page, MADV_DONTNEED)); }

// What the kernel shows of a page's frame: 0 for ordinary users.
std::uint64_t frame(pid_t pid, const char* address) {
  const std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  std::uint64_t entry = 0;
  const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(address) / page * sizeof entry);
  if (fd >= 0 && pread(fd, &entry, sizeof entry, at) != sizeof entry) entry = 0;
  close(fd);
  return entry & ((std::uint64_t{1} << 55) - 1);
}

// The kernel may move a page between two looks.
bool is_one(pid_t child, const char* address) {
  for (int i = 0; i < 100; ++i) {
    if (frame(getpid(), address) == frame(child, address)) return true;
  }
  return false;
}

void check_sharing(pid_t child, const char* when) {
  if (frame(getpid(), page_of(0)) == 0) return;
  for (const std::size_t i : {0uz, 99uz, 110uz, 400uz, kPages - 1}) {
    CHECK(is_one(child, page_of(i)), "%s: page %zu is there twice", when, i);
  }
  CHECK(is_one(child, constant), "%s: the constant page is there twice", when);
  CHECK(is_one(child, file), "%s: the page of the file is there twice", when);
  for (const std::size_t i : {100uz, 200uz}) {
    CHECK(frame(getpid(), page_of(i)) != frame(child, page_of(i)), "%s: page %zu is one", when, i);
  }
}

// Of the first child: [0, 8) can't be written, [30, 32) is gone. Its parent has lost [32, 40).
long right_in_uneven(std::size_t from, std::size_t to) {
  long right = 0;
  for (std::size_t i = from; i < to; ++i) right += uneven[i * page] == 'u' && uneven[i * page + page - 1] == 'u';
  return right;
}

long write_in_uneven() {
  for (std::size_t i = 8; i < 30; ++i) uneven[i * page] = 'v';
  long right = 0;
  for (std::size_t i = 8; i < 30; ++i) right += uneven[i * page] == 'v' && uneven[i * page + 1] == 'u';
  for (std::size_t i = 8; i < 30; ++i) uneven[i * page] = 'u';
  return right;
}

// KiB of `memory` that nobody else has.
long private_memory() {
  std::ifstream smaps("/proc/self/smaps");
  long sum = 0;
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t start = 0, end = 0;
    long kib = 0;
    if (std::sscanf(line.c_str(), "%zx-%zx ", &start, &end) == 2) {
      inside =
          start < reinterpret_cast<std::uintptr_t>(page_of(kPages)) && end > reinterpret_cast<std::uintptr_t>(memory);
    } else if (inside && (std::sscanf(line.c_str(), "Private_Dirty: %ld", &kib) == 1 ||
                          std::sscanf(line.c_str(), "Private_Clean: %ld", &kib) == 1)) {
      sum += kib;
    }
  }
  return sum;
}

Member* grandchild = nullptr;

long answer(char question) {
  switch (question) {
    case 'c':
      return right_pages(childs);
    case 'g':
      return right_pages(others);
    case 'k':
      return constant[5] == 'k' && file[5] == 'f' && file[page + 5] == 'r';
    case 'w':
      write_page(0, 'W');
      return memory[0];
    case 'r':
      return memory[0];
    case 'u':
      return right_in_uneven(0, 30) + right_in_uneven(32, kUneven) + write_in_uneven();
    case 'p':
      return private_memory();
    case 'G':  // the grandchild's pages
      return grandchild->ask('c') + grandchild->ask('u');
    case 'P':
      return grandchild->ask('p');
    case 'E':
      return grandchild->end();
    default:
      return -1;
  }
}

}  // namespace

int main() {
  const auto map = [](std::size_t pages, int flags, int fd) {
    return static_cast<char*>(SETUP(mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, fd, 0)));
  };
  memory = map(kPages, MAP_ANONYMOUS, -1);
  SETUP(madvise(memory, kPages * page, MADV_NOHUGEPAGE));
  for (std::size_t i = 0; i < kPages; ++i) write_page(i, 'a');
  // Not one area with the other: what is not inside an area of the parent's any more is there twice after a restart.
  uneven = map(kUneven + 2, MAP_ANONYMOUS, -1) + page;
  SETUP(mprotect(uneven - page, page, PROT_NONE));
  SETUP(mprotect(uneven + kUneven * page, page, PROT_NONE));
  SETUP(madvise(uneven, kUneven * page, MADV_NOHUGEPAGE));
  std::memset(uneven, 'u', kUneven * page);
  constant = map(1, MAP_ANONYMOUS, -1);
  constant[5] = 'k';
  SETUP(mprotect(constant, page, PROT_READ));
  const int fd = SETUP(open("copy_on_write.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  SETUP(write(fd, std::string(2 * page, 'r').data(), 2 * page));
  file = map(2, 0, fd);
  file[5] = 'f';

  Member child(
      [] {
        for (std::size_t i = 200; i < 230; ++i) write_page(i, 'C');
        give_back(300, 50);
        SETUP(mprotect(uneven, 8 * page, PROT_READ));
        SETUP(munmap(uneven + 30 * page, 2 * page));
        grandchild = new Member([] {}, answer);
      },
      answer);
  // Another child, which wrote every seventh page.
  Member other(
      [] {
        for (std::size_t i = 200; i < 230; ++i) write_page(i, 'C');
        give_back(300, 50);
        for (std::size_t i = 0; i < kPages; ++i) {
          if (i % 7 == 3) write_page(i, 'G');
        }
      },
      answer);
  for (std::size_t i = 100; i < 110; ++i) write_page(i, 'P');
  give_back(500, 20);
  SETUP(munmap(uneven + 32 * page, 8 * page));
  check_sharing(child.pid(), "before");

  scenario::ready_and_wait();

  constexpr long kAll = kPages;
  CHECK_EQ(right_pages(parents), kAll);
  CHECK_EQ(right_in_uneven(0, 32), 32L);
  CHECK_EQ(child.ask('u'), 60L);
  CHECK_EQ(child.ask('G'), kAll + 60);
  CHECK_EQ(child.ask('c'), kAll);
  CHECK_EQ(other.ask('g'), kAll);
  CHECK_EQ(child.ask('k'), 1L);
  CHECK_EQ(other.ask('k'), 1L);
  check_sharing(child.pid(), "after");
  // Of 2400 KiB: what it and its parent wrote or gave back, or less where the others have that as well.
  for (const long kib : {child.ask('p'), child.ask('P'), other.ask('p') - 4 * kAll / 7}) {
    CHECK(kib <= 100 * static_cast<long>(page) / 1024, "%ld KiB are there twice", kib);
  }
  CHECK_EQ(child.ask('w'), static_cast<long>('W'));
  CHECK_EQ(memory[0], 'a');
  CHECK_EQ(other.ask('r'), static_cast<long>('a'));
  CHECK_EQ(child.ask('E'), 7L << 8);
  CHECK_EQ(child.end(), 7 << 8);
  CHECK_EQ(other.end(), 7 << 8);
  unlink("copy_on_write.data");
  return scenario::finish();
}
