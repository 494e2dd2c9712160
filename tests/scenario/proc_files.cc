// SPDX-License-Identifier: Apache-2.0
// Files in /proc of the program's own processes: open ones go on being theirs, at their offsets.
#include <dirent.h>
#include <sys/mman.h>

#include <array>
#include <vector>

#include "tree.h"

namespace {

std::string read_rest(int fd) {
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = read(fd, buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

int open_file(const std::string& path, int flags = O_RDONLY) { return SETUP(open(path.c_str(), flags | O_CLOEXEC)); }

// The names in a directory of numbers, from the beginning.
std::vector<int> numbers_in(int fd) {
  std::vector<int> numbers;
  DIR* dir = fdopendir(dup(fd));
  rewinddir(dir);
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') numbers.push_back(std::atoi(entry->d_name));
  }
  closedir(dir);
  return numbers;
}

}  // namespace

int main() {
  scenario::Member child([] {}, [](char) { return static_cast<long>(getpid()); });
  const std::string own = "/proc/" + std::to_string(getpid());
  const int stat = open_file("/proc/self/stat");
  const int maps = open_file("/proc/self/maps");
  const int maps_part = open_file("/proc/self/maps");
  const int maps_end = open_file("/proc/self/maps");
  const int memory = open_file(own + "/mem", O_RDWR);
  const int descriptors = open_file("/proc/self/fd", O_RDONLY | O_DIRECTORY);
  const int thread = open_file("/proc/thread-self/comm", O_RDWR);
  const int network = open_file("/proc/net/dev");
  const int childs = open_file("/proc/" + std::to_string(child.pid()) + "/stat");
  const int directory = open_file(own, O_PATH | O_DIRECTORY);
  const int status = open_file("/proc/self/status");
  const int again = SETUP(dup3(status, 40, 0));
  std::array<char, 64> first{};
  SETUP(read(stat, first.data(), 10));
  SETUP(read(status, first.data(), 6));
  CHECK(std::string(first.data(), 6) == "Name:\t", "status begins with '%.6s'", first.data());
  static volatile int number = 17;
  SETUP(lseek(memory, static_cast<off_t>(reinterpret_cast<std::uintptr_t>(&number)), SEEK_SET));
  // Read by halves: what was read before and what is read after make one text.
  std::array<char, 100> part{};
  SETUP(read(maps_part, part.data(), part.size()));
  const std::string mappings = read_rest(maps_end);
  const off_t end = lseek(maps_end, 0, SEEK_CUR);
  const int status_part = open_file("/proc/self/status");
  SETUP(read(status_part, first.data(), 1));

  scenario::ready_and_wait();

  CHECK_EQ(lseek(maps_part, 0, SEEK_CUR), static_cast<off_t>(part.size()));
  CHECK_EQ(lseek(maps_end, 0, SEEK_CUR), end);
  const std::string behind = read_rest(maps_end);
  CHECK(behind.empty(), "the end of the mappings goes on: %s", behind.c_str());
  const std::string both = std::string(part.data(), part.size()) + read_rest(maps_part);
  CHECK(both == mappings, "the mappings were\n%s\nand are\n%s", mappings.c_str(), both.c_str());
  const std::string rest = read_rest(status_part);
  CHECK(rest.starts_with("ame:\t") && rest.find("TracerPid:\t0\n") != std::string::npos, "the status is\n%s",
        rest.c_str());

  CHECK_EQ(lseek(stat, 0, SEEK_CUR), 10);
  CHECK_EQ(lseek(stat, 0, SEEK_SET), 0);
  CHECK_EQ(std::atoi(read_rest(stat).c_str()), getpid());
  CHECK_EQ(lseek(status, 0, SEEK_CUR), 6);
  CHECK_EQ(lseek(again, 7, SEEK_SET), 7);
  CHECK_EQ(lseek(status, 0, SEEK_CUR), 7);
  CHECK_EQ(fcntl(again, F_GETFD), 0);
  CHECK_EQ(fcntl(status, F_GETFD), FD_CLOEXEC);
  // It is the memory that the program has now.
  number = 18;
  int seen = 0;
  CHECK_EQ(read(memory, &seen, sizeof seen), sizeof seen);
  CHECK_EQ(seen, 18);
  CHECK(read_rest(maps).find("[stack]") != std::string::npos, "the mappings of another process");
  const int probe = dup(0);
  bool found = false;
  for (const int fd : numbers_in(descriptors)) found = found || fd == probe;
  CHECK(found, "descriptor %d is not in the directory", probe);
  CHECK_EQ(write(thread, "renamed", 7), 7);
  std::array<char, 16> name{};
  prctl(PR_GET_NAME, name.data());
  CHECK(std::string(name.data()) == "renamed", "the thread is called %s", name.data());
  CHECK(read_rest(network).find("lo:") != std::string::npos, "no network device");
  CHECK_EQ(std::atoi(read_rest(childs).c_str()), child.ask('p'));
  CHECK_EQ(fchdir(directory), 0);
  CHECK(scenario::exists("oom_score_adj"), "the directory is another");
  child.end();
  return scenario::finish();
}
