// SPDX-License-Identifier: Apache-2.0
// Memory of every kind keeps its contents, its protection and its flags, and goes on behaving as it did.
// scenario: also-static
#include <setjmp.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <vector>

#include "scenario.h"

namespace {

const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL

unsigned char byte_at(std::size_t offset, unsigned seed) {
  return static_cast<unsigned char>((offset * 2654435761U + seed * 97U) >> 7);
}

void fill(unsigned char* at, std::size_t bytes, unsigned seed) {
  for (std::size_t i = 0; i < bytes; ++i) at[i] = byte_at(i, seed);
}

bool holds(const unsigned char* at, std::size_t bytes, unsigned seed) {
  for (std::size_t i = 0; i < bytes; ++i)
    if (at[i] != byte_at(i, seed)) return false;
  return true;
}

bool is_zero(const unsigned char* at, std::size_t bytes) {
  return std::all_of(at, at + bytes, [](unsigned char c) { return c == 0; });
}

sigjmp_buf fault_return;
volatile int fault_signal = 0;
void on_fault(int number) {
  fault_signal = number;
  siglongjmp(fault_return, 1);
}

// The signal that touching `at` raises, 0 for none.
int touch(volatile unsigned char* at, bool write) {
  fault_signal = 0;
  if (sigsetjmp(fault_return, 1) == 0) {
    const unsigned char value = *at;
    if (write) *at = value;
  }
  return fault_signal;
}

// The VmFlags line and permissions of the mapping that holds `at`.
std::string flags_of(const void* at) {
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  std::string permissions;
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  while (std::getline(smaps, line)) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    char rights[8] = "";
    if (std::sscanf(line.c_str(), "%lx-%lx %7s", &begin, &end, rights) == 3)
      permissions = address >= begin && address < end ? rights : "";
    else if (!permissions.empty() && line.starts_with("VmFlags:"))
      return permissions + line.substr(8);
  }
  return "not mapped";
}

struct Region {
  std::string name;
  unsigned char* at = nullptr;
  std::size_t bytes = 0;
  std::string flags;
  std::function<bool(const Region&)> right;  // are the contents right?
};
std::vector<Region> regions;

unsigned char* map(std::size_t bytes, int protection = PROT_READ | PROT_WRITE, int flags = 0, int fd = -1,
                   std::size_t offset = 0) {
  if ((flags & (MAP_PRIVATE | MAP_SHARED)) == 0) flags |= MAP_PRIVATE;
  if (fd < 0) flags |= MAP_ANONYMOUS;
  // A hole on either side, so that the kernel merges nothing and the flags are this mapping's own.
  auto* hole = static_cast<unsigned char*>(
      SETUP(mmap(nullptr, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  munmap(hole + page, bytes);
  return static_cast<unsigned char*>(
      SETUP(mmap(hole + page, bytes, protection, flags | MAP_FIXED_NOREPLACE, fd, static_cast<off_t>(offset))));
}

Region& add(const std::string& name, unsigned char* at, std::size_t bytes, std::function<bool(const Region&)> right) {
  regions.push_back({name, at, bytes, "", std::move(right)});
  return regions.back();
}

std::function<bool(const Region&)> filled(unsigned seed) {
  return [seed](const Region& r) { return holds(r.at, r.bytes, seed); };
}

int make_file(const std::string& name, std::size_t bytes, unsigned seed, int flags = O_RDWR) {
  std::string text(bytes, '\0');
  fill(reinterpret_cast<unsigned char*>(text.data()), bytes, seed);
  scenario::write_file(scenario::path(name), text);
  return SETUP(open(scenario::path(name).c_str(), flags | O_CLOEXEC));
}

void anonymous() {
  unsigned char* at = map(64 * page);
  fill(at, 64 * page, 1);
  add("anonymous", at, 64 * page, filled(1));

  at = map(1024 * page);
  for (std::size_t i = 0; i < 1024; i += 7) fill(at + i * page, page, static_cast<unsigned>(i));
  add("sparse", at, 1024 * page, [](const Region& r) {
    for (std::size_t i = 0; i < 1024; ++i)
      if (i % 7 == 0 ? !holds(r.at + i * page, page, static_cast<unsigned>(i)) : !is_zero(r.at + i * page, page))
        return false;
    return true;
  });

  at = map(8 * page);
  fill(at, 8 * page, 2);
  mprotect(at, 8 * page, PROT_READ);
  add("read-only", at, 8 * page, filled(2));

  at = map(8 * page);
  fill(at, 8 * page, 3);
  mprotect(at, 8 * page, PROT_NONE);
  add("PROT_NONE with contents", at, 8 * page, [](const Region& r) {
    if (touch(r.at, false) != SIGSEGV) return false;
    mprotect(r.at, r.bytes, PROT_READ);
    return holds(r.at, r.bytes, 3);
  });

  at = map(page);
  const std::array<unsigned char, 6> code = {0xb8, 42, 0, 0, 0, 0xc3};  // mov $42,%eax; ret
  std::copy(code.begin(), code.end(), at);
  mprotect(at, page, PROT_READ | PROT_EXEC);
  add("executable", at, page, [](const Region& r) { return reinterpret_cast<int (*)()>(r.at)() == 42; });

  // Every second page is protected otherwise: 400 mappings.
  at = map(400 * page);
  fill(at, 400 * page, 4);
  for (std::size_t i = 0; i < 400; i += 2) mprotect(at + i * page, page, PROT_READ);
  add("400 pieces", at, 400 * page, filled(4));

  at = map(16 * page, PROT_READ | PROT_WRITE, MAP_NORESERVE | MAP_STACK);
  fill(at, 16 * page, 5);
  add("MAP_NORESERVE", at, 16 * page, filled(5));

  at = map(std::size_t{64} << 30, PROT_NONE, MAP_NORESERVE);
  add("64 GiB reserved", at, std::size_t{64} << 30,
      [](const Region& r) { return touch(r.at + r.bytes / 2, false) == SIGSEGV; });
}

void with_advice() {
  const struct {
    const char* name;
    int advice;
  } kinds[] = {{"MADV_HUGEPAGE", MADV_HUGEPAGE},     {"MADV_NOHUGEPAGE", MADV_NOHUGEPAGE},
               {"MADV_DONTFORK", MADV_DONTFORK},     {"MADV_DONTDUMP", MADV_DONTDUMP},
               {"MADV_WIPEONFORK", MADV_WIPEONFORK}, {"MADV_MERGEABLE", MADV_MERGEABLE},
               {"MADV_SEQUENTIAL", MADV_SEQUENTIAL}, {"MADV_RANDOM", MADV_RANDOM}};
  unsigned seed = 20;
  for (const auto& kind : kinds) {
    unsigned char* at = map(32 * page);
    if (madvise(at, 32 * page, kind.advice) != 0) {
      scenario::skip_part(kind.name);
      munmap(at, 32 * page);
      continue;
    }
    fill(at, 32 * page, ++seed);
    add(kind.name, at, 32 * page, filled(seed));
  }
  // Two huge pages' worth that may be backed by huge pages.
  unsigned char* at = map(std::size_t{6} << 20);
  if (madvise(at, std::size_t{6} << 20, MADV_HUGEPAGE) == 0) {
    fill(at, std::size_t{6} << 20, 19);
    add("huge pages", at, std::size_t{6} << 20, filled(19));
  }
  at = map(16 * page);
  fill(at, 16 * page, 40);
  if (mlock(at, 16 * page) == 0) add("mlock", at, 16 * page, filled(40));
  at = map(16 * page);
  if (mlock2(at, 16 * page, MLOCK_ONFAULT) == 0) {
    fill(at, 8 * page, 41);
    add("MLOCK_ONFAULT", at, 16 * page,
        [](const Region& r) { return holds(r.at, 8 * page, 41) && is_zero(r.at + 8 * page, 8 * page); });
  }
  at = map(16 * page);
  fill(at, 16 * page, 42);
  if (madvise(at + 4 * page, 2 * page, kGuardInstall) == 0) {
    add("guard region", at, 16 * page, [](const Region& r) {
      return holds(r.at, 4 * page, 42) && touch(r.at + 4 * page, false) == SIGSEGV &&
             touch(r.at + 6 * page - 1, true) == SIGSEGV && touch(r.at + 6 * page, true) == 0 &&
             r.at[6 * page] == byte_at(6 * page, 42);
    });
  } else {
    scenario::skip_part("MADV_GUARD_INSTALL");
  }
  // A mapping that grows down, as a stack of old would. The kernel puts nothing into the 256 pages below it; what lies
  // below them stays reserved.
  auto* hole =
      static_cast<unsigned char*>(SETUP(mmap(nullptr, 1024 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  munmap(hole + 744 * page, 264 * page);
  void* grows = mmap(hole + 1000 * page, 8 * page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
  if (grows != MAP_FAILED) {
    at = static_cast<unsigned char*>(grows);
    fill(at, 8 * page, 43);
    add("grows down", at, 8 * page,
        [](const Region& r) { return holds(r.at, r.bytes, 43) && touch(r.at - page, true) == 0; });
  }
}

void of_files() {
  const int fd = make_file("data", 40 * page, 50);
  unsigned char* at = map(16 * page, PROT_READ, MAP_PRIVATE, fd, 4 * page);
  add("private, clean", at, 16 * page, [](const Region& r) {
    for (std::size_t i = 0; i < r.bytes; ++i)
      if (r.at[i] != byte_at(i + 4 * page, 50)) return false;
    return true;
  });
  at = map(16 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
  fill(at + 3 * page, 2 * page, 51);
  add("private, partly written", at, 16 * page, [](const Region& r) {
    return holds(r.at, 3 * page, 50) && holds(r.at + 3 * page, 2 * page, 51) &&
           r.at[5 * page] == byte_at(5 * page, 50) && r.at[16 * page - 1] == byte_at(16 * page - 1, 50);
  });
  at = map(8 * page, PROT_READ, MAP_SHARED, fd);
  add("shared, read-only", at, 8 * page, filled(50));
  close(fd);

  const int out = make_file("written", 8 * page + 100, 52);
  at = map(8 * page + 100, PROT_READ | PROT_WRITE, MAP_SHARED, out);
  at[5] = 99;
  add("shared, written", at, 8 * page, [](const Region& r) {
    r.at[6] = 98;
    const int again = open(scenario::path("written").c_str(), O_RDONLY | O_CLOEXEC);
    std::array<unsigned char, 16> head{};
    const bool ok = again >= 0 && pread(again, head.data(), head.size(), 0) == 16 && head[5] == 99 && head[6] == 98 &&
                    head[7] == byte_at(7, 52);
    close(again);
    return ok;
  });
  close(out);
  // The last page of the mapping lies beyond the end of the file.
  const int small = make_file("small", page + 10, 53);
  at = map(3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, small);
  at[20] = 77;
  add("beyond the end of the file", at, 3 * page, [](const Region& r) {
    return r.at[20] == 77 && r.at[21] == byte_at(21, 53) && touch(r.at + 2 * page, false) == SIGBUS;
  });
  close(small);
}

// Recurses over `bytes` of stack; returns something that depends on each frame.
__attribute__((noinline)) unsigned use_stack(std::size_t bytes, unsigned seed) {
  std::array<volatile unsigned char, 4000> frame{};
  for (std::size_t i = 0; i < frame.size(); i += 100) frame.at(i) = byte_at(i, seed);
  const unsigned below = bytes > frame.size() ? use_stack(bytes - frame.size(), seed + 1) : 0;
  return below + frame.at(seed % 40 * 100);
}

void* thread_with_stack(void*) { return reinterpret_cast<void*>(std::uintptr_t{use_stack(200000, 1)}); }

}  // namespace

int main() {
  // Faults are handled on a stack of their own, since one of them may be the stack's.
  static std::array<char, 65536> fault_stack;
  const stack_t stack = {.ss_sp = fault_stack.data(), .ss_flags = 0, .ss_size = fault_stack.size()};
  sigaltstack(&stack, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_fault;
  action.sa_flags = SA_ONSTACK;
  for (const int number : {SIGSEGV, SIGBUS}) SETUP(sigaction(number, &action, nullptr));

  anonymous();
  with_advice();
  of_files();
  auto* heap_bytes = static_cast<unsigned char*>(std::malloc(300000));
  fill(heap_bytes, 300000, 60);
  SETUP(sbrk(static_cast<std::intptr_t>(3 * page)));
  const void* break_before = sbrk(0);
  const std::uintptr_t vdso_before = getauxval(AT_SYSINFO_EHDR);
  const unsigned stack_sum = use_stack(100000, 1);
  for (Region& region : regions) region.flags = flags_of(region.at);
  const std::string stack_flags = flags_of(&stack);

  scenario::ready_and_wait();

  for (const Region& region : regions) {
    const std::string flags = flags_of(region.at);
    CHECK(flags == region.flags, "%s: flags are %s, not %s", region.name.c_str(), flags.c_str(), region.flags.c_str());
    CHECK(region.right(region), "%s: the contents differ or it behaves otherwise", region.name.c_str());
  }
  const std::string stack_flags_after = flags_of(&stack);
  CHECK(stack_flags_after == stack_flags, "stack: flags are %s, not %s", stack_flags_after.c_str(),
        stack_flags.c_str());
  CHECK(holds(heap_bytes, 300000, 60), "the heap's contents differ");
  CHECK(sbrk(0) == break_before, "the break is %p, not %p", sbrk(0), break_before);
  auto* grown = static_cast<unsigned char*>(sbrk(1 << 20));
  CHECK(grown == break_before, "the heap can't grow");
  CHECK(grown != break_before || is_zero(grown, 1 << 20), "what the heap grew by is not zero");
  CHECK_EQ(use_stack(100000, 1), stack_sum);
  CHECK(use_stack(3 << 20, 7) > 0, "the stack can't grow");
  CHECK_EQ(getauxval(AT_SYSINFO_EHDR), vdso_before);
  CHECK(flags_of(reinterpret_cast<void*>(vdso_before)).starts_with("r-xp"), "there is no vdso at %#lx", vdso_before);
  CHECK(scenario::now_ns() > 0, "the clock stands");
  pthread_t thread{};
  CHECK_EQ(pthread_create(&thread, nullptr, thread_with_stack, nullptr), 0);
  pthread_join(thread, nullptr);
  std::free(heap_bytes);
  return scenario::finish();
}
