// SPDX-License-Identifier: Apache-2.0
#include "resource/locks/file_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

class Locks : public ::testing::Test {
 protected:
  UniqueFd open() { return UniqueFd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)); }
  RoundTrip trip_;
  const std::string path_ = trip_.dir() / "locked";
};

TEST_F(Locks, AFlockComesBack) {
  UniqueFd file = open();
  ASSERT_EQ(::flock(file.get(), LOCK_EX), 0);
  const auto saved = trip_.save({file.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  // While the first program lives it has the lock.
  const auto too_early = trip_.restore();
  ASSERT_FALSE(too_early);
  EXPECT_EQ(too_early.error().code(), Errc::kFileChanged);
  file.reset();
  const auto restored = trip_.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const UniqueFd other = open();
  EXPECT_EQ(::flock(other.get(), LOCK_SH | LOCK_NB), -1);
  ASSERT_EQ(::flock(trip_.fd(0), LOCK_UN), 0);
  EXPECT_EQ(::flock(other.get(), LOCK_SH | LOCK_NB), 0);
}

TEST_F(Locks, ASharedFlockIsShared) {
  UniqueFd file = open();
  ASSERT_EQ(::flock(file.get(), LOCK_SH), 0);
  ASSERT_TRUE(trip_.save({file.get()}));
  file.reset();
  ASSERT_TRUE(trip_.restore());
  const UniqueFd other = open();
  EXPECT_EQ(::flock(other.get(), LOCK_EX | LOCK_NB), -1);
  EXPECT_EQ(::flock(other.get(), LOCK_SH | LOCK_NB), 0);
}

TEST_F(Locks, OpenFileLocksComeBackByRange) {
  UniqueFd file = open();
  struct ::flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_start = 10;
  lock.l_len = 5;
  ASSERT_EQ(::fcntl(file.get(), F_OFD_SETLK, &lock), 0);
  const auto saved = trip_.save({file.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  file.reset();
  const auto restored = trip_.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const UniqueFd other = open();
  const auto is_locked = [&](off_t at) {
    struct ::flock wanted{};
    wanted.l_type = F_WRLCK;
    wanted.l_start = at;
    wanted.l_len = 1;
    return ::fcntl(other.get(), F_OFD_GETLK, &wanted) == 0 && wanted.l_type != F_UNLCK;
  };
  EXPECT_FALSE(is_locked(9));
  EXPECT_TRUE(is_locked(10));
  EXPECT_TRUE(is_locked(14));
  EXPECT_FALSE(is_locked(15));
}

TEST(FileLockRecord, IsMadeOfTheKernelsWords) {
  const auto record = [](std::string_view line) { return to_record(*kernel::parse_lock(line)); };
  EXPECT_EQ(record("1: POSIX  ADVISORY  WRITE 1234 fd:01:5678 10 19"),
            (FileLockRecord{FileLockKind::kPosix, true, 10, 10}));
  EXPECT_EQ(record("1: FLOCK  ADVISORY  READ 1234 fd:01:5678 0 EOF"),
            (FileLockRecord{FileLockKind::kFlock, false, 0, 0}));
  EXPECT_EQ(record("1: OFDLCK ADVISORY  READ -1 fd:01:5678 5 5"),
            (FileLockRecord{FileLockKind::kOpenFile, false, 5, 1}));
  EXPECT_EQ(record("1: LEASE  ACTIVE    READ 1234 fd:01:5678 0 EOF"), std::nullopt);
  EXPECT_EQ(record("1: -> FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF"), std::nullopt);
}

}  // namespace
}  // namespace stasis
