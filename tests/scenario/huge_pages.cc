// SPDX-License-Identifier: Apache-2.0
// scenario: huge
// Memory of huge pages: shared, private, a memfd that is mapped twice. The runner sees that there are some, if it may.
#include <sys/mman.h>

#include <fstream>

#include "scenario.h"

namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

// Huge pages that nobody has.
int free_pages() {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  int count = 0;
  file >> count;
  return count;
}

unsigned char* map(int flags, int fd = -1) {
  return static_cast<unsigned char*>(
      SETUP(mmap(nullptr, kHuge, PROT_READ | PROT_WRITE, flags | (fd < 0 ? MAP_ANONYMOUS | MAP_HUGETLB : 0), fd, 0)));
}

unsigned char byte_of(std::size_t i, unsigned seed) { return static_cast<unsigned char>((i * 31 + seed) >> 3); }

void fill(unsigned char* at, unsigned seed) {
  for (std::size_t i = 0; i < kHuge; ++i) at[i] = byte_of(i, seed);
}

bool holds(const unsigned char* at, unsigned seed) {
  for (std::size_t i = 0; i < kHuge; ++i) {
    if (at[i] != byte_of(i, seed)) return false;
  }
  return true;
}

// Is the mapping at `at` still one of huge pages?
bool is_huge(const void* at) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  while (std::getline(maps, line)) {
    std::uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2)
      inside = begin == reinterpret_cast<std::uintptr_t>(at);
    if (inside && line.starts_with("KernelPageSize:")) return line.find(" 2048 kB") != std::string::npos;
  }
  return false;
}

}  // namespace

int main() {
  if (free_pages() < 3) {
    scenario::skip_part("huge pages");
    CHECK(!scenario::exists(scenario::path("huge")), "there are no huge pages, although the runner made some");
    scenario::ready_and_wait();
    return scenario::finish();
  }
  unsigned char* const shared = map(MAP_SHARED);
  unsigned char* const own = map(MAP_PRIVATE);
  const int fd = SETUP(memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
  SETUP(ftruncate(fd, kHuge));
  unsigned char* const first = map(MAP_SHARED, fd);
  unsigned char* const second = map(MAP_SHARED, fd);
  fill(shared, 9);
  fill(own, 10);
  fill(first, 11);

  scenario::ready_and_wait();

  CHECK(holds(shared, 9), "shared huge pages differ");
  CHECK(holds(own, 10), "private huge pages differ");
  CHECK(holds(first, 11) && holds(second, 11), "a huge memfd differs");
  second[3] = 99;
  CHECK(first[3] == 99, "the two mappings of a huge memfd are not one memory");
  unsigned char byte = 0;
  CHECK(pread(fd, &byte, 1, 3) == 1 && byte == 99, "the descriptor leads to another memory");
  for (const unsigned char* at : {shared, own, first, second}) CHECK(is_huge(at), "a mapping is not of huge pages");
  return scenario::finish();
}
