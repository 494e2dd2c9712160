// SPDX-License-Identifier: Apache-2.0
// A program with large memory that, restarted, does what the file `what` says while its memory is still coming, and
// then checks every byte.
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "../scenario/scenario.h"

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 8192;  // of each area
constexpr std::size_t kBytes = kPage * kPages;

// An area of pages that tell where they belong.
struct Area {
  std::uint64_t* at = nullptr;
  std::uint64_t seed = 0;

  static std::uint64_t word(std::uint64_t seed, std::size_t page, std::size_t i) {
    return (seed << 40) + (page << 12) + i + 1;
  }
  std::uint64_t* page(std::size_t number) const { return at + number * (kPage / 8); }
  bool page_is_right(std::size_t number, const std::uint64_t* where) const {
    for (std::size_t i = 0; i < kPage / 8; ++i)
      if (where[i] != word(seed, number, i)) return false;
    return true;
  }
  std::size_t wrong_pages(std::size_t first, std::size_t end) const {
    std::size_t wrong = 0;
    for (std::size_t i = first; i < end; ++i) wrong += page_is_right(i, page(i)) ? 0 : 1;
    return wrong;
  }
};

bool is_zero(const std::uint64_t* at, std::size_t bytes) {
  return std::all_of(at, at + bytes / 8, [](std::uint64_t v) { return v == 0; });
}

Area make_area(std::uint64_t seed) {
  void* const at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) scenario::broken_setup("mmap", __FILE__, __LINE__);
  const Area area{static_cast<std::uint64_t*>(at), seed};
  for (std::size_t p = 0; p < kPages; ++p)
    for (std::size_t i = 0; i < kPage / 8; ++i) area.page(p)[i] = Area::word(seed, p, i);
  return area;
}

Area first, second;
std::uint64_t* sparse = nullptr;  // every other page of it was never touched

void check_area(const Area& area, const char* name, std::size_t from = 0, std::size_t end = kPages) {
  const std::size_t wrong = area.wrong_pages(from, end);
  CHECK(wrong == 0, "%s: %zu of pages %zu to %zu are wrong", name, wrong, from, end);
}

void check_sparse() {
  std::size_t wrong = 0;
  for (std::size_t p = 0; p < kPages; ++p) wrong += sparse[p * (kPage / 8)] == (p % 2 ? 0 : p + 1) ? 0 : 1;
  CHECK(wrong == 0, "sparse: %zu pages are wrong", wrong);
}

void check_all() {
  check_area(first, "first");
  check_area(second, "second");
  check_sparse();
}

// What the child found wrong becomes ours.
void in_child(const std::function<void()>& body) {
  const pid_t child = SETUP(fork());
  if (child == 0) {
    body();
    std::fputs(scenario::report().failures.c_str(), stderr);
    _exit(scenario::report().failures.empty() ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0, "a child ended with wait status %#x", static_cast<unsigned>(status));
}

// ---- what is done

void touch() { check_all(); }

void forks() {
  first.page(7)[0] = 4711;  // written before the fork, in a page that had to come first
  in_child([] {
    CHECK(first.page(7)[0] == 4711, "the child has not what its parent wrote");
    first.page(7)[0] = Area::word(first.seed, 7, 0);
    in_child(check_all);
    check_all();
  });
  CHECK(first.page(7)[0] == 4711, "the parent has what its child wrote");
  first.page(7)[0] = Area::word(first.seed, 7, 0);
  check_all();
}

// Children and parent at the same time, and children that end before they have all.
void fork_storm() {
  std::vector<pid_t> children;
  for (int i = 0; i < 12; ++i) {
    const pid_t child = SETUP(fork());
    if (child == 0) {
      const std::size_t from = static_cast<std::size_t>(i) * (kPages / 12);
      _exit(first.wrong_pages(from, from + 40) == 0 && second.wrong_pages(kPages - 30, kPages) == 0 ? 0 : 1);
    }
    children.push_back(child);
    first.page(static_cast<std::size_t>(i) * 100)[1] = Area::word(first.seed, static_cast<std::size_t>(i) * 100, 1);
  }
  for (const pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0, "a child ended with wait status %#x", static_cast<unsigned>(status));
  }
  check_all();
}

void wipe_on_fork() {
  constexpr int kWipeOnFork = 18;
  SETUP(madvise(first.page(1000), 1000 * kPage, kWipeOnFork));
  in_child([] {
    CHECK(is_zero(first.page(1000), 1000 * kPage), "the child's wiped memory is not empty");
    check_area(first, "first", 0, 1000);
    check_area(first, "first", 2000);
  });
  check_all();
}

void unmap() {
  CHECK(first.page_is_right(100, first.page(100)), "page 100 is wrong");
  SETUP(munmap(first.page(1000), 3000 * kPage));
  void* const again = mmap(first.page(2000), 1000 * kPage, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(again == first.page(2000), "the hole can't be mapped again");
  CHECK(is_zero(first.page(2000), 1000 * kPage), "memory that was mapped anew is not empty");
  check_area(first, "first", 0, 1000);
  check_area(first, "first", 4000);
  // A fixed mapping on top.
  void* const over =
      mmap(second.page(10), 10 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(over == second.page(10) && is_zero(second.page(10), 10 * kPage), "memory that was mapped over is not empty");
  check_area(second, "second", 0, 10);
  check_area(second, "second", 20);
  check_sparse();
}

void empty() {
  SETUP(madvise(first.page(500), 2000 * kPage, MADV_DONTNEED));
  CHECK(first.page_is_right(2500, first.page(2500)), "the page behind is wrong");
  first.page(700)[3] = 5;
  CHECK(first.page(700)[0] == 0 && first.page(700)[3] == 5, "a page that was emptied and written is wrong");
  first.page(700)[3] = 0;
  CHECK(is_zero(first.page(500), 2000 * kPage), "emptied memory is not empty");
  check_area(first, "first", 0, 500);
  check_area(first, "first", 2500);
  SETUP(madvise(second.page(0), 64 * kPage, MADV_FREE));
  std::size_t wrong = 0;
  for (std::size_t p = 0; p < 64; ++p)
    wrong += second.page_is_right(p, second.page(p)) || is_zero(second.page(p), kPage) ? 0 : 1;
  CHECK(wrong == 0, "%zu pages that were free to go are neither there nor empty", wrong);
  check_area(second, "second", 64);
  check_sparse();
}

void move() {
  auto* const place = static_cast<std::uint64_t*>(
      mmap(nullptr, 2 * kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  CHECK(first.page_is_right(3000, first.page(3000)), "page 3000 is wrong");
  // A part of it, and then all of another, which grows.
  void* const part = mremap(first.page(2000), 2000 * kPage, 2000 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  CHECK(part == place, "mremap failed: %s", std::strerror(errno));
  void* const whole =
      mremap(second.at, kBytes, kBytes + 100 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place + 4000 * (kPage / 8));
  CHECK(whole == place + 4000 * (kPage / 8), "mremap failed: %s", std::strerror(errno));
  const Area moved{static_cast<std::uint64_t*>(whole), second.seed};
  std::size_t wrong = 0;
  for (std::size_t p = 0; p < 2000; ++p) wrong += first.page_is_right(2000 + p, place + p * (kPage / 8)) ? 0 : 1;
  CHECK(wrong == 0, "%zu moved pages are wrong", wrong);
  check_area(moved, "moved");
  CHECK(is_zero(moved.page(kPages), 100 * kPage), "what it grew by is not empty");
  check_area(first, "first", 0, 2000);
  check_area(first, "first", 4000);
  // What stays behind is empty.
  void* const left = mremap(first.page(5000), 100 * kPage, 100 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  if (left != MAP_FAILED) {
    CHECK(is_zero(first.page(5000), 100 * kPage), "what was left behind is not empty");
    CHECK(first.page_is_right(5050, static_cast<std::uint64_t*>(left) + 50 * (kPage / 8)), "page 5050 is wrong");
  }
  check_sparse();
}

void protect() {
  for (std::size_t p = 0; p < kPages; p += 16) SETUP(mprotect(first.page(p), kPage, PROT_READ));
  SETUP(mlock(second.page(10), 20 * kPage));
  check_all();
  for (std::size_t p = 0; p < kPages; p += 16) SETUP(mprotect(first.page(p), kPage, PROT_READ | PROT_WRITE));
}

// The kernel's own accesses to pages that are not there yet.
void system_calls() {
  const std::string name = scenario::path("copy");
  const int fd = SETUP(open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  CHECK(write(fd, first.page(200), 300 * kPage) == static_cast<ssize_t>(300 * kPage), "write: %s",
        std::strerror(errno));
  CHECK(pread(fd, second.page(50), 300 * kPage, 0) == static_cast<ssize_t>(300 * kPage), "read: %s",
        std::strerror(errno));
  close(fd);
  unlink(name.c_str());
  std::size_t wrong = 0;
  for (std::size_t p = 0; p < 300; ++p) wrong += first.page_is_right(200 + p, second.page(50 + p)) ? 0 : 1;
  CHECK(wrong == 0, "%zu pages are not what was written", wrong);
  check_area(second, "second", 0, 50);
  check_area(second, "second", 350);
  check_area(first, "first");
  check_sparse();
}

// Threads that touch, write, empty, move and fork, all at once.
void storm() {
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      unsigned long random = t + 1;
      for (int i = 0; i < 500; ++i) {
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        const std::size_t p = (random >> 33) % kPages;
        wrong += second.page_is_right(p, second.page(p)) ? 0 : 1;
      }
    });
  }
  // Of the first area, each thread has a quarter, of which it empties pages: they are empty, and stay so.
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::size_t begin = t * (kPages / 4);
      for (std::size_t p = begin; p + 8 <= begin + kPages / 4; p += 16) {
        madvise(first.page(p), 8 * kPage, MADV_DONTNEED);
        for (std::size_t i = p; i < p + 8; ++i) wrong += is_zero(first.page(i), kPage) ? 0 : 1;
        first.page(p + 1)[5] = p;
        for (std::size_t i = p + 8; i < p + 16; ++i) wrong += first.page_is_right(i, first.page(i)) ? 0 : 1;
      }
    });
  }
  std::thread forker([&] {
    while (!stop) {
      scenario::pause_ms(3);
      const pid_t child = fork();
      if (child == 0) _exit(second.wrong_pages(100, 110) == 0 ? 0 : 1);
      int status = -1;
      if (child > 0) waitpid(child, &status, 0);
      wrong += status == 0 ? 0 : 1;
    }
  });
  for (auto& thread : threads) thread.join();
  stop = true;
  forker.join();
  for (std::size_t p = 0; p < kPages; p += 16) {
    wrong += first.page(p + 1)[5] == p ? 0 : 1;
    first.page(p + 1)[5] = 0;
    wrong += is_zero(first.page(p), 8 * kPage) ? 0 : 1;
  }
  CHECK(wrong == 0, "%zu pages were wrong", wrong.load());
  check_area(second, "second");
  check_sparse();
}

// Another program, in a child and then in our own place.
void execute() {
  in_child([] {
    execl("/bin/true", "true", nullptr);
    _exit(127);
  });
  CHECK(first.page_is_right(77, first.page(77)), "page 77 is wrong");
  const std::string go = "printf 'PASS\\n' > " + scenario::path("result");
  execl("/bin/sh", "sh", "-c", go.c_str(), nullptr);
}

void leave() {}

const std::map<std::string, void (*)()> kDeeds = {{"touch", touch},
                                                  {"forks", forks},
                                                  {"fork_storm", fork_storm},
                                                  {"wipe_on_fork", wipe_on_fork},
                                                  {"unmap", unmap},
                                                  {"empty", empty},
                                                  {"move", move},
                                                  {"protect", protect},
                                                  {"system_calls", system_calls},
                                                  {"storm", storm},
                                                  {"execute", execute},
                                                  {"leave", leave}};

std::string text_of(const std::string& name) {
  std::ifstream file(scenario::path(name));
  std::string word;
  file >> word;
  return word;
}

}  // namespace

int main() {
  first = make_area(1);
  second = make_area(2);
  sparse =
      static_cast<std::uint64_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (std::size_t p = 0; p < kPages; p += 2) sparse[p * (kPage / 8)] = p + 1;
  scenario::ready_and_wait();
  CHECK(true, "it runs");
  kDeeds.at(text_of("what"))();
  return scenario::finish();
}
