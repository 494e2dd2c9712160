// SPDX-License-Identifier: Apache-2.0
// Memory that is shared stays one memory, however often it is mapped and whatever made it: shared anonymous memory,
// memfds (their descriptors closed, sealed), POSIX shared memory, deleted files.
// scenario: ipc
#include <sys/mman.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <vector>

#include "scenario.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace {

const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

using Bytes = volatile unsigned char;

unsigned char* map(std::size_t bytes, int protection, int flags, int fd = -1, std::size_t offset = 0) {
  return static_cast<unsigned char*>(SETUP(mmap(nullptr, bytes, protection, flags, fd, static_cast<off_t>(offset))));
}

void fill(unsigned char* at, std::size_t bytes, unsigned seed) {
  for (std::size_t i = 0; i < bytes; ++i) at[i] = static_cast<unsigned char>((i * 31 + seed) >> 3);
}
bool holds(const unsigned char* at, std::size_t bytes, unsigned seed) {
  for (std::size_t i = 0; i < bytes; ++i)
    if (at[i] != static_cast<unsigned char>((i * 31 + seed) >> 3)) return false;
  return true;
}

// The line of /proc/self/maps for the mapping at `at`, without inode and padding.
std::string maps_line(const void* at) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    std::uintptr_t begin = 0;
    char rights[8] = "", offset[20] = "", path[256] = "";
    if (std::sscanf(line.c_str(), "%lx-%*x %7s %19s %*s %*s %255[^\n]", &begin, rights, offset, path) < 3) continue;
    if (begin == reinterpret_cast<std::uintptr_t>(at)) return std::string(rights) + " " + offset + " " + path;
  }
  return "not mapped";
}

// Two mappings of the same thing, `distance` bytes apart in it.
struct Pair {
  const char* name;
  unsigned char* first;
  unsigned char* second;
  std::size_t distance;
};
std::vector<Pair> pairs;

void anonymous() {
  unsigned char* at = map(64 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  fill(at, 64 * page, 1);
  auto* again = static_cast<unsigned char*>(SETUP(mremap(at + 16 * page, 0, 8 * page, MREMAP_MAYMOVE)));
  pairs.push_back({"shared anonymous memory", at, again, 16 * page});

  // Only the ends are left of this one, and one of them can't be read.
  at = map(32 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  fill(at, 32 * page, 2);
  again = static_cast<unsigned char*>(SETUP(mremap(at + 24 * page, 0, 8 * page, MREMAP_MAYMOVE)));
  munmap(at + 8 * page, 16 * page);
  mprotect(at, 8 * page, PROT_NONE);
  pairs.push_back({"a torn mapping", at + 24 * page, again, 0});

  const int zero = SETUP(open("/dev/zero", O_RDWR | O_CLOEXEC));
  at = map(4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, zero);
  close(zero);
  fill(at, 4 * page, 3);
  again = static_cast<unsigned char*>(SETUP(mremap(at, 0, 4 * page, MREMAP_MAYMOVE)));
  pairs.push_back({"/dev/zero", at, again, 0});
}

void memfds() {
  int fd = SETUP(memfd_create("no descriptor", MFD_CLOEXEC));
  SETUP(ftruncate(fd, static_cast<off_t>(16 * page)));
  unsigned char* at = map(16 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  unsigned char* again = map(8 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * page);
  close(fd);
  fill(at, 16 * page, 4);
  pairs.push_back({"a memfd without descriptor", at, again, 4 * page});
}

// A memfd with its descriptor: mappings, a private one, and seals that came after the mapping.
struct Sealed {
  int fd = -1;
  unsigned char* written = nullptr;
  unsigned char* own = nullptr;
  int read_only_fd = -1;
  unsigned char* read_only = nullptr;
} sealed;

void seal() {
  sealed.fd = SETUP(memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  SETUP(ftruncate(sealed.fd, static_cast<off_t>(8 * page)));
  sealed.written = map(8 * page, PROT_READ | PROT_WRITE, MAP_SHARED, sealed.fd);
  fill(sealed.written, 8 * page, 5);
  sealed.own = map(8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, sealed.fd);
  fill(sealed.own + 2 * page, page, 6);
  SETUP(fcntl(sealed.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_GROW));

  sealed.read_only_fd = SETUP(memfd_create("read-only", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  std::string text(2 * page, 'r');
  SETUP(write(sealed.read_only_fd, text.data(), text.size()));
  SETUP(fcntl(sealed.read_only_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  sealed.read_only = map(2 * page, PROT_READ, MAP_PRIVATE, sealed.read_only_fd);
}

void check_seals() {
  CHECK(holds(sealed.written, 8 * page, 5), "the sealed memfd's contents differ");
  CHECK(holds(sealed.own + 2 * page, page, 6) && sealed.own[page] == sealed.written[page],
        "its private mapping differs");
  sealed.written[7] = 99;
  CHECK(sealed.own[7] == 99, "a clean page of a private mapping does not follow its file");
  unsigned char byte = 0;
  CHECK(pread(sealed.fd, &byte, 1, 7) == 1 && byte == 99, "the descriptor leads to another memory");
  CHECK_EQ(fcntl(sealed.fd, F_GET_SEALS), F_SEAL_FUTURE_WRITE | F_SEAL_GROW);
  CHECK(pwrite(sealed.fd, &byte, 1, 0) == -1 && errno == EPERM, "a sealed memfd can be written");
  CHECK_EQ(fcntl(sealed.read_only_fd, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  CHECK(sealed.read_only[page + 1] == 'r', "the read-only memfd's contents differ");
}

unsigned char* posix_shared = nullptr;
std::string posix_name;

void posix() {
  posix_name = "/stasis-scenario-" + std::to_string(getpid());
  int fd = SETUP(shm_open(posix_name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  SETUP(ftruncate(fd, static_cast<off_t>(4 * page)));
  posix_shared = map(4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  fill(posix_shared, 4 * page, 7);
  close(fd);

  const std::string gone = posix_name + "-gone";
  fd = SETUP(shm_open(gone.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  SETUP(ftruncate(fd, static_cast<off_t>(6 * page)));
  unsigned char* at = map(6 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
  unsigned char* again = map(page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 5 * page);
  close(fd);
  shm_unlink(gone.c_str());
  fill(at, 6 * page, 8);
  pairs.push_back({"unlinked POSIX shared memory", at, again, 5 * page});
}

// A file of code that was replaced while it is mapped, as an upgrade does.
unsigned char* replaced = nullptr;
void replaced_file() {
  std::string text(3 * page + 100, 'x');
  text[2 * page] = 'y';
  scenario::write_file(scenario::path("library"), text);
  const int fd = SETUP(open(scenario::path("library").c_str(), O_RDONLY | O_CLOEXEC));
  replaced = map(4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
  close(fd);
  replaced[page] = 'z';
  unlink(scenario::path("library").c_str());
}

}  // namespace

int main() {
  anonymous();
  memfds();
  seal();
  posix();
  replaced_file();
  std::vector<std::string> lines;
  for (const Pair& pair : pairs) lines.push_back(maps_line(pair.first));

  scenario::ready_and_wait();

  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const Pair& pair = pairs[i];
    unsigned char old = pair.second[3];
    CHECK(pair.first[pair.distance + 3] == old && pair.first[pair.distance] == pair.second[0] &&
              std::equal(pair.second, pair.second + page, pair.first + pair.distance),
          "%s: the two mappings differ", pair.name);
    pair.second[3] = static_cast<unsigned char>(old + 1);
    CHECK(pair.first[pair.distance + 3] == static_cast<unsigned char>(old + 1),
          "%s: the two mappings are not one memory", pair.name);
    pair.second[3] = old;
    const std::string line = maps_line(pair.first);
    // Without privilege the real thing can't be had, nor can the name of a file that is gone.
    CHECK(line.substr(0, 4) == lines[i].substr(0, 4), "%s: %s, not %s", pair.name, line.c_str(), lines[i].c_str());
    if (geteuid() == 0 && std::strstr(pair.name, "unlinked") == nullptr)
      CHECK(line == lines[i], "%s: %s, not %s", pair.name, line.c_str(), lines[i].c_str());
  }
  CHECK(holds(pairs[0].first, 64 * page, 1), "shared anonymous memory differs");
  CHECK(holds(pairs[2].first, 4 * page, 3), "/dev/zero differs");
  CHECK(holds(pairs[3].first, 16 * page, 4), "a memfd differs");
  unsigned char* const torn = pairs[1].first - 24 * page;
  CHECK(maps_line(torn).starts_with("---s"), "PROT_NONE: %s", maps_line(torn).c_str());
  mprotect(torn, 8 * page, PROT_READ);
  CHECK(holds(torn, 8 * page, 2), "unreadable shared memory differs");
  check_seals();
  CHECK(holds(posix_shared, 4 * page, 7), "POSIX shared memory differs");
  posix_shared[1] = 42;
  const int fd = shm_open(posix_name.c_str(), O_RDONLY, 0);
  unsigned char two[2] = {};
  CHECK(pread(fd, two, 2, 0) == 2 && two[1] == 42, "the mapping does not reach the file");
  close(fd);
  shm_unlink(posix_name.c_str());
  CHECK(replaced[0] == 'x' && replaced[page] == 'z' && replaced[2 * page] == 'y' && replaced[3 * page + 99] == 'x' &&
            replaced[3 * page + 100] == 0,
        "the replaced file differs");
  return scenario::finish();
}
