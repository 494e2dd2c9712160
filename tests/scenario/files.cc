// SPDX-License-Identifier: Apache-2.0
// Regular files, directories and simple devices: offsets, flags, sharing by dup, close-on-exec, O_PATH.
// scenario: also-static
#include <dirent.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <array>
#include <set>
#include <vector>

#include "scenario.h"

namespace {

struct Open {
  std::string name;
  int fd;
  int status_flags;
  int descriptor_flags;
  off_t offset;
  struct stat st;
};
std::vector<Open> opened;

Open look(const std::string& name, int fd) {
  Open view{name, fd, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD), lseek(fd, 0, SEEK_CUR), {}};
  fstat(fd, &view.st);
  return view;
}

// Opens (or takes) a descriptor, to be compared later.
int open_as(const std::string& name, int flags, off_t offset = 0) {
  const int fd = SETUP(open(name.c_str(), flags, 0644));
  if (offset != 0) SETUP(lseek(fd, offset, SEEK_SET));
  return fd;
}

std::string text_at(int fd, std::size_t bytes) {
  std::string text(bytes, '\0');
  const ssize_t got = read(fd, text.data(), bytes);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

// Names that getdents64 gives from the present offset on.
std::set<std::string> names_left(int fd) {
  std::set<std::string> names;
  std::array<char, 4096> buffer{};
  for (;;) {
    const long got = syscall(SYS_getdents64, fd, buffer.data(), buffer.size());
    if (got <= 0) return names;
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
      names.insert(entry->d_name);
      at += entry->d_reclen;
    }
  }
}

}  // namespace

int main() {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "line " + std::to_string(i) + "\n";
  const std::string data = scenario::path("data");
  scenario::write_file(data, text);
  const std::string log = scenario::path("log");
  scenario::write_file(log, "first\n");
  const std::string dir = scenario::path("files");
  SETUP(mkdir(dir.c_str(), 0755));
  for (int i = 0; i < 300; ++i) scenario::write_file(dir + "/entry" + std::to_string(i), "");

  const int reader = open_as(data, O_RDONLY, 1234);
  const int cloexec = open_as(data, O_RDONLY | O_CLOEXEC, 17);
  const int writer = open_as(scenario::path("out"), O_WRONLY | O_CREAT);
  SETUP(write(writer, "abcdef", 6));
  const int append = open_as(log, O_WRONLY | O_APPEND);
  SETUP(write(append, "second\n", 7));
  const int both = open_as(data, O_RDWR | O_NOATIME | O_NONBLOCK | O_DSYNC, 99);
  const int duplicate = SETUP(dup(reader));
  const int far_duplicate = SETUP(fcntl(reader, F_DUPFD_CLOEXEC, 700));
  const int separate = open_as(data, O_RDONLY, 1234);
  const int path_fd = open_as(data, O_PATH);
  const int beyond = open_as(data, O_RDONLY, 1 << 30);
  const int directory = open_as(dir, O_RDONLY | O_DIRECTORY);
  // Part of the directory is read: the rest must follow after it.
  std::array<char, 2048> buffer{};
  const long part = SETUP(syscall(SYS_getdents64, directory, buffer.data(), buffer.size()));
  const int fresh = open_as(dir, O_RDONLY | O_DIRECTORY);
  lseek(fresh, lseek(directory, 0, SEEK_CUR), SEEK_SET);
  const std::set<std::string> expected_rest = names_left(fresh);
  close(fresh);
  const int null = open_as("/dev/null", O_RDWR);
  const int zero = open_as("/dev/zero", O_RDONLY);
  const int random = open_as("/dev/urandom", O_RDONLY | O_CLOEXEC);
  const int gap = open_as(data, O_RDONLY);
  close(gap);
  const int many_first = open_as(data, O_RDONLY, 7);
  for (int i = 0; i < 200; ++i) SETUP(open(data.c_str(), O_RDONLY | O_CLOEXEC));
  const std::pair<const char*, int> all[] = {
      {"reader", reader},  {"cloexec", cloexec},     {"writer", writer},         {"append", append},
      {"both", both},      {"duplicate", duplicate}, {"far", far_duplicate},     {"separate", separate},
      {"O_PATH", path_fd}, {"beyond", beyond},       {"directory", directory},   {"/dev/null", null},
      {"/dev/zero", zero}, {"/dev/urandom", random}, {"one of many", many_first}};
  for (const auto& [name, fd] : all) opened.push_back(look(name, fd));

  scenario::ready_and_wait();

  for (const Open& before : opened) {
    const Open after = look(before.name, before.fd);
    const char* name = before.name.c_str();
    CHECK(after.status_flags == before.status_flags, "%s: flags %#o, not %#o", name, after.status_flags,
          before.status_flags);
    CHECK(after.descriptor_flags == before.descriptor_flags, "%s: close-on-exec differs", name);
    CHECK(after.offset == before.offset, "%s: offset %lld, not %lld", name, static_cast<long long>(after.offset),
          static_cast<long long>(before.offset));
    CHECK(after.st.st_ino == before.st.st_ino && after.st.st_dev == before.st.st_dev &&
              after.st.st_rdev == before.st.st_rdev,
          "%s: another file", name);
  }
  CHECK(text_at(reader, 100) == text.substr(1234, 100), "reading goes on elsewhere");
  CHECK_EQ(lseek(duplicate, 0, SEEK_CUR), 1334);
  CHECK_EQ(lseek(far_duplicate, 0, SEEK_CUR), 1334);
  CHECK_EQ(lseek(separate, 0, SEEK_CUR), 1234);
  CHECK(write(writer, "ghi", 3) == 3 && text_at(open_as(scenario::path("out"), O_RDONLY), 100) == "abcdefghi",
        "writing does not go on");
  CHECK(write(append, "third\n", 6) == 6 && text_at(open_as(log, O_RDONLY), 100) == "first\nsecond\nthird\n",
        "appending does not go on");
  char byte = 0;
  CHECK(read(path_fd, &byte, 1) == -1 && errno == EBADF, "an O_PATH descriptor can be read");
  const int reopened = open(("/proc/self/fd/" + std::to_string(path_fd)).c_str(), O_RDONLY);
  CHECK(text_at(reopened, 7) == "line 0\n", "an O_PATH descriptor leads elsewhere");
  CHECK(part > 0 && names_left(directory) == expected_rest, "a directory is not read on from its place");
  CHECK(write(null, "x", 1) == 1 && text_at(zero, 3) == std::string(3, '\0') && text_at(random, 16).size() == 16,
        "a device differs");
  CHECK_EQ(fcntl(gap, F_GETFD), many_first == gap ? 0 : -1);
  return scenario::finish();
}
