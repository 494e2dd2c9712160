// SPDX-License-Identifier: Apache-2.0
#include "resource/regular_file/path_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <array>
#include <filesystem>

#include "resource/nameless_file/nameless_file.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::find_file;
using testing::gather_own_files;
using testing::RoundTrip;

UniqueFd open_file(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, 0600));
  EXPECT_TRUE(fd) << path;
  return fd;
}

void write_text(const std::string& path, std::string_view text) {
  const UniqueFd fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  ASSERT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

// ---- the file policy ------------------------------------------------------------------------------------------------

PathFileRecord file_record(bool tree_writes) {
  return {.path = "/data",
          .flags = tree_writes ? unsigned{O_RDWR} : unsigned{O_RDONLY},
          .mode = S_IFREG | 0644,
          .device = 1,
          .inode = 2,
          .size = 100,
          .mtime_ns = 3,
          .birth_ns = 4,
          .tree_writes = tree_writes};
}
constexpr FoundFile kUnchanged = {
    .mode = S_IFREG | 0644, .device = 1, .inode = 2, .size = 100, .mtime_ns = 3, .birth_ns = 4};

enum class Expect { kTake, kTruncate, kRefuse };
Expect judge(const PathFileRecord& record, const FoundFile& found, FilePolicy policy) {
  const auto verdict = judge_file(record, found, policy);
  if (!verdict) {
    EXPECT_EQ(verdict.error().code(), Errc::kFileChanged);
    return Expect::kRefuse;
  }
  return *verdict == FileVerdict::kTakeAsIs ? Expect::kTake : Expect::kTruncate;
}
std::array<Expect, 3> judge_all(const PathFileRecord& record, const FoundFile& found) {
  return {judge(record, found, FilePolicy::kStrict), judge(record, found, FilePolicy::kRollback),
          judge(record, found, FilePolicy::kRelaxed)};
}
constexpr std::array kAllTake = {Expect::kTake, Expect::kTake, Expect::kTake};
constexpr std::array kOnlyRelaxed = {Expect::kRefuse, Expect::kRefuse, Expect::kTake};
constexpr std::array kNever = {Expect::kRefuse, Expect::kRefuse, Expect::kRefuse};

TEST(FilePolicy, AnUnchangedFileIsTaken) {
  EXPECT_EQ(judge_all(file_record(false), kUnchanged), kAllTake);
  EXPECT_EQ(judge_all(file_record(true), kUnchanged), kAllTake);
}

TEST(FilePolicy, AReadFileMustHaveItsSizeAndTime) {
  FoundFile found = kUnchanged;
  found.mtime_ns = 5;
  EXPECT_EQ(judge_all(file_record(false), found), kOnlyRelaxed);
  found = kUnchanged;
  found.size = 101;
  EXPECT_EQ(judge_all(file_record(false), found), kOnlyRelaxed);
}

TEST(FilePolicy, AReadFileMayBeACopy) {
  FoundFile found = kUnchanged;
  found.inode = 77;
  found.device = 9;
  found.birth_ns = 99;
  EXPECT_EQ(judge_all(file_record(false), found), kAllTake);
}

TEST(FilePolicy, AWrittenFileMayHaveAnyTime) {
  FoundFile found = kUnchanged;
  found.mtime_ns = 5;
  EXPECT_EQ(judge_all(file_record(true), found), kAllTake);
}

TEST(FilePolicy, AWrittenFileThatGrewIsRefusedTruncatedOrTaken) {
  FoundFile found = kUnchanged;
  found.size = 101;
  EXPECT_EQ(judge_all(file_record(true), found), (std::array{Expect::kRefuse, Expect::kTruncate, Expect::kTake}));
  const auto refused = judge_file(file_record(true), found, FilePolicy::kStrict);
  EXPECT_NE(refused.error().help().find("--files rollback"), std::string::npos);
}

TEST(FilePolicy, AWrittenFileThatShrankIsOnlyTakenRelaxed) {
  FoundFile found = kUnchanged;
  found.size = 99;
  EXPECT_EQ(judge_all(file_record(true), found), kOnlyRelaxed);
}

TEST(FilePolicy, AWrittenFileMustBeTheSameInode) {
  FoundFile found = kUnchanged;
  found.inode = 77;
  EXPECT_EQ(judge_all(file_record(true), found), kOnlyRelaxed);
  found = kUnchanged;
  found.birth_ns = 99;  // the inode number was used again
  EXPECT_EQ(judge_all(file_record(true), found), kOnlyRelaxed);
}

TEST(FilePolicy, DeviceNumbersOfDisksMayChangeWhereTheBirthTimeTells) {
  FoundFile found = kUnchanged;
  found.device = 9;
  EXPECT_EQ(judge_all(file_record(true), found), kAllTake);
  found.birth_ns = 0;
  EXPECT_EQ(judge_all(file_record(true), found), kOnlyRelaxed);
}

TEST(FilePolicy, AnotherTypeIsNeverTaken) {
  FoundFile found = kUnchanged;
  found.mode = S_IFIFO | 0644;
  EXPECT_EQ(judge_all(file_record(false), found), kNever);
  PathFileRecord device = file_record(true);
  device.mode = S_IFCHR | 0666;
  device.device_number = 0x103;
  found.mode = S_IFCHR | 0666;
  found.device_number = 0x105;
  EXPECT_EQ(judge_all(device, found), kNever);
}

TEST(FilePolicy, DirectoriesAndPathOnlyFilesMayChange) {
  FoundFile found = kUnchanged;
  found.size = 4096;
  found.mtime_ns = 99;
  PathFileRecord path_only = file_record(false);
  path_only.flags = O_PATH;
  EXPECT_EQ(judge_all(path_only, found), kAllTake);
  PathFileRecord directory = file_record(false);
  directory.mode = S_IFDIR | 0755;
  found.mode = S_IFDIR | 0755;
  EXPECT_EQ(judge_all(directory, found), kAllTake);
}

// ---- names ----------------------------------------------------------------------------------------------------------

class NamedFile : public ::testing::Test {
 protected:
  FileName name_of(const UniqueFd& fd) {
    const OpenFileTable table = gather_own_files();
    return find_name(*find_file(table, fd.get())).state;
  }
  const sample::ScratchDir dir_;
  const std::string path_ = dir_ / "file";
  const UniqueFd fd_ = open_file(path_, O_RDWR | O_CREAT);
};

TEST_F(NamedFile, LeadsToIt) { EXPECT_EQ(name_of(fd_), FileName::kLeadsToIt); }

TEST_F(NamedFile, RenamedFilesAreFoundUnderTheirNewName) {
  ASSERT_EQ(::rename(path_.c_str(), (dir_ / "renamed").c_str()), 0);
  EXPECT_EQ(name_of(fd_), FileName::kLeadsToIt);
}

TEST_F(NamedFile, ADeletedFileIsSeenToBe) {
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_EQ(name_of(fd_), FileName::kDeleted);
}

TEST_F(NamedFile, ADeletedFileIsNotTakenForItsSuccessor) {
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  write_text(path_, "another");
  EXPECT_EQ(name_of(fd_), FileName::kDeleted);
}

TEST_F(NamedFile, AnotherNameInTheSameDirectoryIsFound) {
  ASSERT_EQ(::link(path_.c_str(), (dir_ / "other").c_str()), 0);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  const OpenFileTable table = gather_own_files();
  const NameFound name = find_name(*find_file(table, fd_.get()));
  EXPECT_EQ(name.state, FileName::kLeadsToIt);
  EXPECT_EQ(name.path, dir_ / "other");
}

TEST_F(NamedFile, ANameInAnotherDirectoryIsNot) {
  ASSERT_EQ(::mkdir((dir_ / "elsewhere").c_str(), 0700), 0);
  ASSERT_EQ(::link(path_.c_str(), (dir_ / "elsewhere/other").c_str()), 0);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_EQ(name_of(fd_), FileName::kLinkedElsewhere);
  RoundTrip trip;
  const auto saved = trip.save({fd_.get()});
  ASSERT_FALSE(saved);
  EXPECT_NE(saved.error().message().find(path_), std::string::npos);
}

TEST_F(NamedFile, NamesWithNewlinesAndWordsOfTheKernelAreGood) {
  const UniqueFd odd = open_file(dir_ / "new\nline (deleted)", O_RDWR | O_CREAT);
  EXPECT_EQ(name_of(odd), FileName::kLeadsToIt);
}

// ---- round trips ----------------------------------------------------------------------------------------------------

TEST(PathFile, OffsetAndFlagsComeBack) {
  RoundTrip trip;
  const std::string path = trip.dir() / "data";
  write_text(path, "0123456789");
  struct Opening {
    int flags;
    off_t offset;
  };
  const std::array openings = {Opening{O_RDONLY, 3}, Opening{O_RDWR | O_APPEND, 10}, Opening{O_WRONLY | O_NONBLOCK, 0},
                               Opening{O_RDONLY | O_NOATIME, 1 << 30}, Opening{O_RDWR | O_DSYNC, 5}};
  std::vector<UniqueFd> fds;
  std::vector<int> flags;
  for (const auto& opening : openings) {
    fds.push_back(open_file(path, opening.flags));
    ASSERT_EQ(::lseek(fds.back().get(), opening.offset, SEEK_SET), opening.offset);
    flags.push_back(::fcntl(fds.back().get(), F_GETFL));
  }
  const auto saved = trip.save({fds[0].get(), fds[1].get(), fds[2].get(), fds[3].get(), fds[4].get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  fds.clear();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  for (std::size_t i = 0; i < openings.size(); ++i) {
    EXPECT_EQ(::fcntl(trip.fd(i), F_GETFL), flags[i]) << i;
    EXPECT_EQ(::lseek(trip.fd(i), 0, SEEK_CUR), openings[i].offset) << i;
    EXPECT_GE(trip.fd(i), RoundTrip::kParkingBase);
  }
}

TEST(PathFile, ADirectoryIsReadOnFromItsPlace) {
  RoundTrip trip;
  for (int i = 0; i < 200; ++i) write_text(trip.dir() / ("entry" + std::to_string(i)), "");
  UniqueFd directory = open_file(trip.dir().path(), O_RDONLY | O_DIRECTORY);
  std::array<char, 1024> buffer{};
  ASSERT_GT(::syscall(SYS_getdents64, directory.get(), buffer.data(), buffer.size()), 0);
  const off_t cookie = ::lseek(directory.get(), 0, SEEK_CUR);
  ASSERT_NE(cookie, 0);
  ASSERT_TRUE(trip.save({directory.get()}));
  directory.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::lseek(trip.fd(0), 0, SEEK_CUR), cookie);
}

TEST(PathFile, DevicesWithoutStateComeBack) {
  RoundTrip trip;
  UniqueFd null = open_file("/dev/null", O_RDWR), zero = open_file("/dev/zero", O_RDONLY),
           random = open_file("/dev/urandom", O_RDONLY);
  ASSERT_TRUE(trip.save({null.get(), zero.get(), random.get()}));
  ASSERT_TRUE(trip.restore());
  char byte = 'x';
  EXPECT_EQ(::read(trip.fd(0), &byte, 1), 0);
  EXPECT_EQ(::read(trip.fd(1), &byte, 1), 1);
  EXPECT_EQ(byte, '\0');
  EXPECT_EQ(::read(trip.fd(2), &byte, 1), 1);
}

TEST(PathFile, PathOnlyDescriptorsComeBackEvenOfLinks) {
  RoundTrip trip;
  const std::string link = trip.dir() / "link";
  ASSERT_EQ(::symlink("/nowhere", link.c_str()), 0);
  UniqueFd to_link = open_file(link, O_PATH | O_NOFOLLOW), to_directory = open_file(trip.dir().path(), O_PATH);
  const int flags = ::fcntl(to_link.get(), F_GETFL);
  const auto saved = trip.save({to_link.get(), to_directory.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  to_link.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETFL), flags);
  struct ::stat stat{};
  ASSERT_EQ(::fstat(trip.fd(0), &stat), 0);
  EXPECT_TRUE(S_ISLNK(stat.st_mode));
}

TEST(PathFile, OtherProcFilesComeBackWhateverTheirTimes) {
  RoundTrip trip;
  UniqueFd file = open_file("/proc/meminfo", O_RDONLY);
  std::array<char, 10> buffer{};
  ASSERT_EQ(::read(file.get(), buffer.data(), buffer.size()), 10);
  ASSERT_TRUE(trip.save({file.get()}));
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::lseek(trip.fd(0), 0, SEEK_CUR), 10);
}

TEST(PathFile, AMissingFileIsNamed) {
  RoundTrip trip;
  const std::string path = trip.dir() / "gone";
  UniqueFd file = open_file(path, O_RDWR | O_CREAT);
  ASSERT_TRUE(trip.save({file.get()}));
  ASSERT_EQ(::unlink(path.c_str()), 0);
  const auto restored = trip.restore();
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), Errc::kFileMissing);
  EXPECT_NE(restored.error().message().find(path), std::string::npos);
}

TEST(PathFile, ReadingOneOpeningOfAWrittenFileFollowsTheRulesOfWrittenFiles) {
  RoundTrip trip;
  const std::string path = trip.dir() / "log";
  UniqueFd writer = open_file(path, O_WRONLY | O_CREAT | O_APPEND), reader = open_file(path, O_RDONLY);
  ASSERT_EQ(::write(writer.get(), "saved", 5), 5);
  ASSERT_TRUE(trip.save({reader.get(), writer.get()}));
  ASSERT_EQ(::futimens(writer.get(), nullptr), 0);  // another time, the same bytes
  EXPECT_TRUE(trip.restore());
}

TEST(PathFile, RollbackTruncatesAtTheEndOfTheRestartStrictRefuses) {
  RoundTrip trip;
  const std::string path = trip.dir() / "log";
  UniqueFd writer = open_file(path, O_WRONLY | O_CREAT | O_APPEND);
  ASSERT_EQ(::write(writer.get(), "saved", 5), 5);
  ASSERT_TRUE(trip.save({writer.get()}));
  ASSERT_EQ(::write(writer.get(), " and more", 9), 9);
  const auto strict = trip.restore();
  ASSERT_FALSE(strict);
  EXPECT_EQ(strict.error().code(), Errc::kFileChanged);
  EXPECT_EQ(std::filesystem::file_size(path), 14u);
  ASSERT_TRUE(trip.restore({.files = FilePolicy::kRelaxed}));
  EXPECT_EQ(std::filesystem::file_size(path), 14u);
  ASSERT_TRUE(trip.restore({.files = FilePolicy::kRollback}));
  EXPECT_EQ(std::filesystem::file_size(path), 5u);
}

TEST(PathFile, ASomethingElseUnderThePathIsNotOpened) {
  RoundTrip trip;
  const std::string path = trip.dir() / "data";
  write_text(path, "x");
  UniqueFd file = open_file(path, O_RDONLY);
  ASSERT_TRUE(trip.save({file.get()}));
  ASSERT_EQ(::unlink(path.c_str()), 0);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);  // opening it would block
  const auto restored = trip.restore({.files = FilePolicy::kRelaxed});
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), Errc::kFileChanged);
}

}  // namespace
}  // namespace stasis
