// SPDX-License-Identifier: Apache-2.0
// Files that are open and no longer where they were: deleted ones with contents, holes and the file's own marks; one
// that is still there under another name, one that was renamed, one whose place another file has; directories, FIFOs,
// symlinks.
#include <dirent.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <array>

#include "scenario.h"

namespace {

constexpr off_t kHole = off_t{1} << 30;

int create(const std::string& name, const std::string& text, int flags = O_RDWR) {
  const int fd = SETUP(open(name.c_str(), flags | O_CREAT | O_EXCL | O_CLOEXEC, 0640));
  SETUP(write(fd, text.data(), text.size()));
  return fd;
}

std::string text_at(int fd, off_t offset, std::size_t length) {
  std::string text(length, '\0');
  const ssize_t got = pread(fd, text.data(), length, offset);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

struct stat stat_of(int fd) {
  struct stat st = {};
  CHECK_EQ(fstat(fd, &st), 0);
  return st;
}

}  // namespace

int main() {
  const std::string dir = scenario::path("files");
  SETUP(mkdir(dir.c_str(), 0755));
  const auto at = [&](const char* name) { return dir + "/" + name; };

  const int deleted = create(at("deleted"), "all of it");
  const int reader = SETUP(open(at("deleted").c_str(), O_RDONLY | O_CLOEXEC));
  const int appender = SETUP(open(at("deleted").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  SETUP(lseek(reader, 4, SEEK_SET));
  SETUP(fchmod(deleted, 0604));
  SETUP(unlink(at("deleted").c_str()));

  const int sparse = create(at("sparse"), "begin");
  SETUP(pwrite(sparse, "end", 3, kHole));
  SETUP(unlink(at("sparse").c_str()));
  char* const mapped = static_cast<char*>(SETUP(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, sparse, 0)));
  mapped[100] = 'm';

  const int linked = create(at("linked"), "linked");
  SETUP(link(at("linked").c_str(), at("elsewhere").c_str()));
  SETUP(unlink(at("linked").c_str()));
  const int renamed = create(at("old"), "renamed");
  SETUP(rename(at("old").c_str(), at("new").c_str()));
  const int replaced = create(at("place"), "was there");
  SETUP(unlink(at("place").c_str()));
  close(create(at("place"), "is there now"));
  const int nameless = open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (nameless >= 0) SETUP(write(nameless, "nameless", 8));
  if (nameless < 0) scenario::skip_part("no O_TMPFILE here");

  const int directory = SETUP(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  SETUP(symlink("nowhere", at("symlink").c_str()));
  const int symlink_itself = SETUP(open(at("symlink").c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  SETUP(mkfifo(at("fifo").c_str(), 0600));
  const int fifo = SETUP(open(at("fifo").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  SETUP(write(fifo, "in the fifo", 11));
  SETUP(mkfifo(at("lost fifo").c_str(), 0600));
  const int lost_fifo = SETUP(open(at("lost fifo").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  SETUP(write(lost_fifo, "lost", 4));
  SETUP(unlink(at("lost fifo").c_str()));
  SETUP(mkdir(at("lost directory").c_str(), 0700));
  const int lost_directory = SETUP(open(at("lost directory").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  SETUP(rmdir(at("lost directory").c_str()));
  const int zero = SETUP(open("/dev/zero", O_RDWR | O_CLOEXEC)), full = SETUP(open("/dev/full", O_WRONLY | O_CLOEXEC));

  // Numbers above a limit that was lowered afterwards.
  const int high = SETUP(fcntl(deleted, F_DUPFD_CLOEXEC, 900));
  rlimit limit{};
  SETUP(getrlimit(RLIMIT_NOFILE, &limit));
  limit.rlim_cur = 256;
  SETUP(setrlimit(RLIMIT_NOFILE, &limit));

  scenario::ready_and_wait();

  CHECK(text_at(deleted, 0, 100) == "all of it", "a deleted file holds %s", text_at(deleted, 0, 100).c_str());
  CHECK_EQ(stat_of(deleted).st_nlink, 0);
  CHECK_EQ(stat_of(deleted).st_mode & 07777, 0604);
  CHECK_EQ(stat_of(deleted).st_ino, stat_of(reader).st_ino);
  CHECK_EQ(lseek(reader, 0, SEEK_CUR), 4);
  CHECK_EQ(write(reader, "x", 1), -1);
  CHECK_EQ(write(appender, " and more", 9), 9);
  CHECK(text_at(reader, 0, 100) == "all of it and more", "an opening for appending has another file");
  CHECK(!scenario::exists(at("deleted")), "a deleted file has its name again");
  CHECK_EQ(stat_of(high).st_ino, stat_of(deleted).st_ino);

  CHECK(text_at(sparse, kHole - 2, 5) == std::string("\0\0end", 5), "the end behind a hole differs");
  CHECK_EQ(stat_of(sparse).st_size, kHole + 3);
  CHECK(stat_of(sparse).st_blocks < 1000, "a hole of 1 GiB takes %ld blocks",
        static_cast<long>(stat_of(sparse).st_blocks));
  CHECK(text_at(sparse, 100, 1) == "m", "what was written through a mapping is lost");
  mapped[200] = 'n';
  CHECK(text_at(sparse, 200, 1) == "n", "the mapping is of another file");

  struct stat named = {};
  CHECK(stat(at("elsewhere").c_str(), &named) == 0 && named.st_ino == stat_of(linked).st_ino, "another name was lost");
  CHECK_EQ(pwrite(linked, "L", 1, 0), 1);
  const int elsewhere = open(at("elsewhere").c_str(), O_RDONLY);
  CHECK(text_at(elsewhere, 0, 10) == "Linked", "the file of the other name is another one");
  CHECK(stat(at("new").c_str(), &named) == 0 && named.st_ino == stat_of(renamed).st_ino,
        "a renamed file is another one");
  CHECK(text_at(replaced, 0, 20) == "was there", "a file has the contents of the one in its place");
  const int place = open(at("place").c_str(), O_RDONLY);
  CHECK(text_at(place, 0, 20) == "is there now", "the file in the place of a deleted one differs");
  if (nameless >= 0) CHECK(text_at(nameless, 0, 20) == "nameless", "a file that never had a name differs");

  CHECK_EQ(openat(directory, "made afterwards", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) >= 0, true);
  CHECK(scenario::exists(at("made afterwards")), "the directory is another one");
  std::array<char, 16> target{};
  CHECK_EQ(readlinkat(symlink_itself, "", target.data(), target.size()), 7);
  std::array<char, 16> bytes{};
  CHECK_EQ(read(fifo, bytes.data(), bytes.size()), 11);
  const int other_end = open(at("fifo").c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  CHECK(other_end >= 0 && write(other_end, "more", 4) == 4 && read(fifo, bytes.data(), bytes.size()) == 4,
        "the FIFO is no longer the one of its name");
  CHECK_EQ(read(lost_fifo, bytes.data(), bytes.size()), 4);
  CHECK_EQ(stat_of(lost_directory).st_nlink, 0);
  CHECK(S_ISDIR(stat_of(lost_directory).st_mode), "a deleted directory is none");
  CHECK(openat(lost_directory, "file", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT,
        "a deleted directory takes files");
  CHECK(read(zero, bytes.data(), 1) == 1 && bytes[0] == 0, "/dev/zero gives something else");
  CHECK(write(full, "x", 1) == -1 && errno == ENOSPC, "/dev/full takes something");
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 256, "the limit of open files is %lu",
        static_cast<unsigned long>(limit.rlim_cur));
  return scenario::finish();
}
