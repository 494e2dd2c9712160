// SPDX-License-Identifier: Apache-2.0
#include "resource/shared_memory/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/file.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

TEST(MemFd, ContentsNameSealsAndOffsetComeBack) {
  RoundTrip trip;
  UniqueFd memory(::memfd_create("a name", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::write(memory.get(), "0123456789", 10), 10);
  ASSERT_EQ(::ftruncate(memory.get(), 100'000), 0);
  ASSERT_EQ(::lseek(memory.get(), 5, SEEK_SET), 5);
  ASSERT_EQ(::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
  UniqueFd second(::open(fmt::format("/proc/self/fd/{}", memory.get()).c_str(), O_RDONLY | O_CLOEXEC));
  const int flags = ::fcntl(memory.get(), F_GETFL), seals = ::fcntl(memory.get(), F_GET_SEALS);
  struct ::stat before{}, after{}, other{};
  ASSERT_EQ(::fstat(memory.get(), &before), 0);
  const auto saved = trip.save({memory.get(), second.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  ASSERT_EQ(::fstat(trip.fd(0), &after), 0);
  ASSERT_EQ(::fstat(trip.fd(1), &other), 0);
  EXPECT_EQ(after.st_ino, other.st_ino);
  EXPECT_NE(after.st_ino, before.st_ino);
  EXPECT_EQ(after.st_mode, before.st_mode);
  EXPECT_EQ(after.st_size, 100'000);
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETFL), flags);
  EXPECT_EQ(::fcntl(trip.fd(0), F_GET_SEALS), seals);
  EXPECT_EQ(::lseek(trip.fd(0), 0, SEEK_CUR), 5);
  EXPECT_EQ(::lseek(trip.fd(1), 0, SEEK_CUR), 0);
  char text[11] = {};
  EXPECT_EQ(::pread(trip.fd(1), text, 10, 0), 10);
  EXPECT_STREQ(text, "0123456789");
  EXPECT_EQ(*read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", trip.fd(0))), "/memfd:a name (deleted)");
}

TEST(MemFd, OneThatCantBeSealedStaysSo) {
  RoundTrip trip;
  UniqueFd memory(::memfd_create("plain", MFD_CLOEXEC));
  ASSERT_TRUE(trip.save({memory.get()}));
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::fcntl(trip.fd(0), F_GET_SEALS), ::fcntl(memory.get(), F_GET_SEALS));
}

TEST(MemFd, AFileThatLooksLikeOneIsNot) {
  const auto claims = [](const char* link, nlink_t links) {
    OpenFile file;
    file.link = link;
    file.stat.st_mode = S_IFREG;
    file.stat.st_nlink = links;
    return claims_mem_fd(file, OpenFileTable());
  };
  EXPECT_TRUE(claims("/memfd:x (deleted)", 0));
  EXPECT_FALSE(claims("/memfd:x (deleted)", 1));
  EXPECT_FALSE(claims("/tmp/memfd:x (deleted)", 0));
}

TEST(MemFd, HostileRecordsAreRefused) {
  for (const SharedMemoryRecord& record : {SharedMemoryRecord{.name = std::string("a\0b", 3), .mode = S_IFREG | 0777},
                                           SharedMemoryRecord{.name = "x", .mode = S_IFDIR},
                                           SharedMemoryRecord{.name = "x", .mode = S_IFREG, .huge_page = 12345},
                                           SharedMemoryRecord{.size = ~std::uint64_t{0}, .mode = S_IFREG}}) {
    EXPECT_FALSE(testing::restore_record(record, kind::kSharedMemory));
  }
  EXPECT_TRUE(testing::restore_record(SharedMemoryRecord{.name = "x", .mode = S_IFREG | 0777}, kind::kSharedMemory));
}

TEST(SharedMemory, AnonymousMemoryIsMadeAgainInItsSize) {
  const SharedMemoryRecord record{.size = 5 * 4096, .mode = S_IFREG | 0777, .origin = MemoryOrigin::kAnonymous};
  EXPECT_TRUE(testing::restore_record(record, kind::kSharedMemory));
}

}  // namespace
}  // namespace stasis
