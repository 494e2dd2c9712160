// SPDX-License-Identifier: Apache-2.0
// Devices that were deleted while they are open (as in a jail that was emptied): /dev/null and its kin.
// scenario: root
#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "scenario.h"

namespace {

struct stat stat_of(int fd) {
  struct stat st = {};
  CHECK_EQ(fstat(fd, &st), 0);
  return st;
}

int count_entries(const std::string& path) {
  DIR* const dir = opendir(path.c_str());
  if (dir == nullptr) return -1;
  int count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

}  // namespace

int main() {
  const std::string dir = scenario::path("devices");
  SETUP(mkdir(dir.c_str(), 0755));
  const auto at = [&](const char* name) { return dir + "/" + name; };
  if (mknod(at("null").c_str(), S_IFCHR | 0666, makedev(1, 3)) != 0 || open(at("null").c_str(), O_RDWR) < 0) {
    scenario::skip_part("devices can't be made or opened here");
    scenario::ready_and_wait();
    CHECK(true, "-");
    return scenario::finish();
  }
  const int null = SETUP(open(at("null").c_str(), O_RDWR | O_APPEND | O_CLOEXEC));
  const int null_again = SETUP(open(at("null").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  const int null_path = SETUP(open(at("null").c_str(), O_PATH | O_CLOEXEC));
  SETUP(fchmod(null, 0640));
  SETUP(fchown(null, 12, 34));
  SETUP(unlink(at("null").c_str()));
  SETUP(mknod(at("full").c_str(), S_IFCHR | 0600, makedev(1, 7)));
  const int full = SETUP(open(at("full").c_str(), O_WRONLY | O_CLOEXEC));
  SETUP(unlink(at("full").c_str()));
  // One whose directory is gone, too.
  SETUP(mkdir(at("gone").c_str(), 0755));
  SETUP(mknod(at("gone/zero").c_str(), S_IFCHR | 0600, makedev(1, 5)));
  const int zero = SETUP(open(at("gone/zero").c_str(), O_RDONLY | O_CLOEXEC));
  SETUP(unlink(at("gone/zero").c_str()));
  SETUP(rmdir(at("gone").c_str()));

  scenario::ready_and_wait();

  CHECK_EQ(write(null, "x", 1), 1);
  char byte = 'x';
  CHECK_EQ(read(null_again, &byte, 1), 0);
  CHECK_EQ(write(null_again, "x", 1), -1);
  const struct stat st = stat_of(null);
  CHECK_EQ(st.st_mode, S_IFCHR | 0640);
  CHECK_EQ(st.st_rdev, makedev(1, 3));
  CHECK_EQ(st.st_nlink, 0);
  CHECK_EQ(st.st_uid, 12);
  CHECK_EQ(st.st_gid, 34);
  CHECK_EQ(stat_of(null_again).st_ino, st.st_ino);
  CHECK_EQ(stat_of(null_path).st_ino, st.st_ino);
  CHECK((fcntl(null, F_GETFL) & (O_ACCMODE | O_APPEND)) == (O_RDWR | O_APPEND), "flags %o", fcntl(null, F_GETFL));
  CHECK((fcntl(null_again, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");
  CHECK(write(full, "x", 1) == -1 && errno == ENOSPC, "a deleted /dev/full takes something");
  CHECK(read(zero, &byte, 1) == 1 && byte == 0, "a deleted /dev/zero gives something else");
  CHECK_EQ(count_entries(dir), 2);  // . and ..
  return scenario::finish();
}
