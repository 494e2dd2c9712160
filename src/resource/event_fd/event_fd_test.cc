// SPDX-License-Identifier: Apache-2.0
#include "resource/event_fd/event_fd.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include "resource/open_file/anonymous_file.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

std::uint64_t take(int fd) {
  std::uint64_t value = 0;
  return ::eventfd_read(fd, &value) == 0 ? value : 0;
}

TEST(EventFd, CountKindAndFlagsComeBack) {
  RoundTrip trip;
  UniqueFd counter(::eventfd(5, EFD_CLOEXEC | EFD_NONBLOCK)), semaphore(::eventfd(2, EFD_SEMAPHORE | EFD_CLOEXEC)),
      empty(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), full(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  ASSERT_EQ(::eventfd_write(full.get(), ~std::uint64_t{0} - 1), 0);
  const int flags = ::fcntl(counter.get(), F_GETFL), blocking = ::fcntl(semaphore.get(), F_GETFL);
  const auto saved = trip.save({counter.get(), semaphore.get(), empty.get(), full.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETFL), flags);
  EXPECT_EQ(::fcntl(trip.fd(1), F_GETFL), blocking);
  EXPECT_EQ(take(trip.fd(0)), 5u);
  EXPECT_EQ(take(trip.fd(1)), 1u);
  EXPECT_EQ(take(trip.fd(1)), 1u);
  EXPECT_EQ(take(trip.fd(2)), 0u);
  EXPECT_EQ(take(trip.fd(3)), ~std::uint64_t{0} - 1);
}

TEST(EventFd, ProbingLeavesTheCount) {
  for (const int kind : {0, int{EFD_SEMAPHORE}}) {
    for (const std::uint64_t count :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{9}, ~std::uint64_t{0} - 1}) {
      const UniqueFd fd(::eventfd(0, kind | EFD_NONBLOCK | EFD_CLOEXEC));
      ASSERT_TRUE(count == 0 || ::eventfd_write(fd.get(), count) == 0);
      const auto semaphore = probe_semaphore(fd.get(), count);
      ASSERT_TRUE(semaphore) << semaphore.error().to_string();
      EXPECT_EQ(*semaphore, kind != 0) << count;
      const auto table = testing::gather_own_files();
      EXPECT_EQ(*fdinfo_number<std::uint64_t>(testing::find_file(table, fd.get())->info, "eventfd-count", 16), count);
    }
  }
}

}  // namespace
}  // namespace stasis
