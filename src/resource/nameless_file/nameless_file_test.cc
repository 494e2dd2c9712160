// SPDX-License-Identifier: Apache-2.0
#include "resource/nameless_file/nameless_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>

#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::Child;
using testing::gather_own_files;
using testing::RoundTrip;

struct ::stat stat_of(int fd) {
  struct ::stat stat{};
  EXPECT_EQ(::fstat(fd, &stat), 0);
  return stat;
}

std::string text_at(int fd, off_t offset, std::size_t bytes) {
  std::string text(bytes, '\0');
  const ssize_t got = ::pread(fd, text.data(), bytes, offset);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

class DeletedFile : public ::testing::Test {
 protected:
  UniqueFd make(int flags = O_RDWR) {
    UniqueFd fd(::open(path_.c_str(), flags | O_CREAT | O_CLOEXEC, 0640));
    EXPECT_TRUE(fd);
    return fd;
  }
  void save_and_restore(std::initializer_list<int> fds) {
    const auto saved = trip_.save(fds);
    ASSERT_TRUE(saved) << saved.error().to_string();
    const auto restored = trip_.restore();
    ASSERT_TRUE(restored) << restored.error().to_string();
  }
  RoundTrip trip_;
  const std::string path_ = trip_.dir() / "deleted";
};

TEST_F(DeletedFile, ComesBackWithContentsOffsetModeAndTimes) {
  UniqueFd file = make();
  ASSERT_EQ(::write(file.get(), "0123456789", 10), 10);
  ASSERT_EQ(::lseek(file.get(), 4, SEEK_SET), 4);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  const struct ::stat before = stat_of(file.get());
  const int flags = ::fcntl(file.get(), F_GETFL);
  const std::size_t entries = trip_.dir().entries();
  save_and_restore({file.get()});
  const struct ::stat after = stat_of(trip_.fd(0));
  EXPECT_NE(after.st_ino, before.st_ino);
  EXPECT_EQ(after.st_nlink, 0u);
  EXPECT_EQ(after.st_mode, before.st_mode);
  EXPECT_EQ(after.st_size, 10);
  EXPECT_EQ(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
  EXPECT_EQ(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
  EXPECT_EQ(after.st_dev, before.st_dev);  // in the directory where it was
  EXPECT_EQ(::fcntl(trip_.fd(0), F_GETFL), flags);
  EXPECT_EQ(::lseek(trip_.fd(0), 0, SEEK_CUR), 4);
  EXPECT_EQ(text_at(trip_.fd(0), 0, 100), "0123456789");
  EXPECT_EQ(trip_.dir().entries(), entries + 1);  // the image
}

TEST_F(DeletedFile, AllItsOpeningsAreOfOneFile) {
  UniqueFd writer = make(O_WRONLY | O_APPEND), reader(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)),
           path_only(::open(path_.c_str(), O_PATH | O_CLOEXEC));
  ASSERT_EQ(::write(writer.get(), "old", 3), 3);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  save_and_restore({reader.get(), writer.get(), path_only.get()});
  ASSERT_EQ(::write(trip_.fd(1), "new", 3), 3);
  EXPECT_EQ(text_at(trip_.fd(0), 0, 100), "oldnew");
  EXPECT_EQ(stat_of(trip_.fd(2)).st_ino, stat_of(trip_.fd(0)).st_ino);
  EXPECT_EQ(::fcntl(trip_.fd(2), F_GETFL) & O_PATH, O_PATH);
}

TEST_F(DeletedFile, ABigSparseFileStaysSparse) {
  UniqueFd file = make();
  const off_t far = off_t{3} << 30;
  ASSERT_EQ(::pwrite(file.get(), "begin", 5, 0), 5);
  ASSERT_EQ(::pwrite(file.get(), "end", 3, far), 3);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  save_and_restore({file.get()});
  EXPECT_EQ(stat_of(trip_.fd(0)).st_size, far + 3);
  EXPECT_LT(stat_of(trip_.fd(0)).st_blocks, 2048);
  EXPECT_EQ(text_at(trip_.fd(0), 0, 6), std::string("begin\0", 6));
  EXPECT_EQ(text_at(trip_.fd(0), far, 10), "end");
  EXPECT_LT(std::filesystem::file_size(trip_.dir() / "image"), 1u << 20);
}

TEST_F(DeletedFile, MoreThanAChunkComesBack) {
  UniqueFd file = make();
  std::string text(20'000'001, '\0');
  unsigned state = 1;
  for (char& c : text) c = static_cast<char>((state = state * 1103515245 + 12345) >> 16);
  ASSERT_EQ(::pwrite(file.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  save_and_restore({file.get()});
  EXPECT_TRUE(text_at(trip_.fd(0), 0, text.size() + 10) == text);
}

TEST_F(DeletedFile, InADirectoryThatIsGoneComesBackElsewhere) {
  const std::string directory = trip_.dir() / "gone";
  ASSERT_EQ(::mkdir(directory.c_str(), 0700), 0);
  UniqueFd file(::open((directory + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(file.get(), "text", 4), 4);
  ASSERT_EQ(::unlink((directory + "/file").c_str()), 0);
  ASSERT_EQ(::rmdir(directory.c_str()), 0);
  save_and_restore({file.get()});
  EXPECT_EQ(text_at(trip_.fd(0), 0, 10), "text");
}

TEST_F(DeletedFile, ADirectoryComesBackToo) {
  const std::string directory = trip_.dir() / "gone";
  ASSERT_EQ(::mkdir(directory.c_str(), 0710), 0);
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::rmdir(directory.c_str()), 0);
  save_and_restore({fd.get()});
  EXPECT_EQ(stat_of(trip_.fd(0)).st_mode, mode_t{S_IFDIR | 0710});
  EXPECT_EQ(stat_of(trip_.fd(0)).st_nlink, 0u);
}

TEST_F(DeletedFile, AStatelessDeviceComesBackWhereDevicesMayBeMade) {
  if (::mknod(path_.c_str(), S_IFCHR | 0620, makedev(1, 5)) != 0) GTEST_SKIP() << "no CAP_MKNOD";
  UniqueFd zero(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  if (!zero) GTEST_SKIP() << "devices can't be opened here";
  UniqueFd path_only(::open(path_.c_str(), O_PATH | O_CLOEXEC));
  ASSERT_EQ(::fchmod(zero.get(), 0604), 0);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  const struct ::stat before = stat_of(zero.get());
  const std::size_t entries = trip_.dir().entries();
  save_and_restore({zero.get(), path_only.get()});
  const struct ::stat after = stat_of(trip_.fd(0));
  EXPECT_NE(after.st_ino, before.st_ino);
  EXPECT_EQ(after.st_dev, before.st_dev);
  EXPECT_EQ(after.st_rdev, makedev(1, 5));
  EXPECT_EQ(after.st_mode, mode_t{S_IFCHR | 0604});
  EXPECT_EQ(after.st_nlink, 0u);
  EXPECT_EQ(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
  EXPECT_EQ(stat_of(trip_.fd(1)).st_ino, after.st_ino);
  char byte = 'x';
  EXPECT_EQ(::read(trip_.fd(0), &byte, 1), 1);
  EXPECT_EQ(byte, '\0');
  EXPECT_EQ(trip_.dir().entries(), entries + 1);  // the image
}

TEST_F(DeletedFile, ADeviceThatIsMappedIsRefused) {
  if (::mknod(path_.c_str(), S_IFCHR | 0600, makedev(1, 5)) != 0) GTEST_SKIP() << "no CAP_MKNOD";
  UniqueFd zero(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  if (!zero) GTEST_SKIP() << "devices can't be opened here";
  OpenFile file{.link = path_ + " (deleted)", .stat = stat_of(zero.get())};
  file.stat.st_nlink = 0;
  file.holders.push_back({.pid = HostPid(::getpid()), .fd = zero.get()});
  OpenInode inode{.files = {&file}, .views = {{.pid = HostPid(::getpid()), .end = 4096}}};
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_FALSE(name_obstacle(file, {}));
  file.inode = &inode;
  EXPECT_TRUE(name_obstacle(file, {}));
}

TEST_F(DeletedFile, OneWithoutPermissionsComesBack) {
  UniqueFd file = make();
  ASSERT_EQ(::write(file.get(), "text", 4), 4);
  ASSERT_EQ(::fchmod(file.get(), 0400), 0);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  save_and_restore({file.get()});
  EXPECT_EQ(stat_of(trip_.fd(0)).st_mode, mode_t{S_IFREG | 0400});
  EXPECT_EQ(::pwrite(trip_.fd(0), "T", 1, 0), 1);
}

TEST_F(DeletedFile, IsRefusedIfAnOutsiderWouldGoOnWritingToTheOldOne) {
  UniqueFd file = make();
  const Child child;
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  const Obstacles obstacles = collect_obstacles(gather_own_files(), {});
  const auto found = std::ranges::find(obstacles, file.get(), &Obstacle::fd);
  ASSERT_NE(found, obstacles.end());
  EXPECT_EQ(found->code, Errc::kExternalPeer);
}

TEST(NamelessFile, HostileRecordsAreRefused) {
  for (const NamelessFileRecord& record :
       {NamelessFileRecord{.path = "/x", .mode = S_IFIFO | 0600},
        NamelessFileRecord{.path = "/x", .mode = S_IFCHR | 0600, .device_number = makedev(1, 1)},
        NamelessFileRecord{.path = "/x", .mode = S_IFBLK | 0600, .device_number = makedev(1, 3)},
        NamelessFileRecord{.path = "x", .mode = S_IFREG | 0600},
        NamelessFileRecord{.path = "/x", .mode = S_IFREG | 0600, .size = ~std::uint64_t{0}}}) {
    EXPECT_FALSE(testing::restore_record(record, kind::kNamelessFile));
  }
}

}  // namespace
}  // namespace stasis
