// SPDX-License-Identifier: Apache-2.0
#include "resource/timer_fd/timer_fd.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <time.h>

#include "resource/open_file/anonymous_file.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::find_file;
using testing::gather_own_files;
using testing::RoundTrip;

UniqueFd make_timer(int clock, int flags, itimerspec times) {
  UniqueFd fd(::timerfd_create(clock, TFD_CLOEXEC | TFD_NONBLOCK));
  EXPECT_EQ(::timerfd_settime(fd.get(), flags, &times, nullptr), 0);
  return fd;
}

itimerspec state_of(int fd) {
  itimerspec times{};
  EXPECT_EQ(::timerfd_gettime(fd, &times), 0);
  return times;
}

std::string settime_flags(int fd) {
  const OpenFileTable table = gather_own_files();
  return std::string(*kernel::fdinfo_value(find_file(table, fd)->info.rest, "settime flags"));
}

TEST(TimerFd, WhatRemainsRemains) {
  RoundTrip trip;
  UniqueFd fd = make_timer(CLOCK_MONOTONIC, 0, {.it_interval = {7, 5}, .it_value = {5000, 0}});
  const int flags = ::fcntl(fd.get(), F_GETFL);
  const auto saved = trip.save({fd.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const itimerspec times = state_of(trip.fd(0));
  EXPECT_LE(times.it_value.tv_sec, 5000);
  EXPECT_GT(times.it_value.tv_sec, 4000);
  EXPECT_EQ(times.it_interval.tv_sec, 7);
  EXPECT_EQ(times.it_interval.tv_nsec, 5);
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETFL), flags);
}

TEST(TimerFd, AnAbsoluteTimeOfABootClockBecomesWhatRemains) {
  RoundTrip trip;
  timespec now{};
  ASSERT_EQ(::clock_gettime(CLOCK_BOOTTIME, &now), 0);
  UniqueFd fd = make_timer(CLOCK_BOOTTIME, TFD_TIMER_ABSTIME, {.it_interval = {}, .it_value = {now.tv_sec + 5000, 0}});
  ASSERT_TRUE(trip.save({fd.get()}));
  ASSERT_TRUE(trip.restore());
  const itimerspec times = state_of(trip.fd(0));
  EXPECT_LE(times.it_value.tv_sec, 5000);
  EXPECT_GT(times.it_value.tv_sec, 4000);
  EXPECT_EQ(settime_flags(trip.fd(0)), settime_flags(fd.get()));
}

TEST(TimerFd, AWallTimeIsKept) {
  RoundTrip trip;
  timespec now{};
  ASSERT_EQ(::clock_gettime(CLOCK_REALTIME, &now), 0);
  UniqueFd fd = make_timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME, {.it_interval = {}, .it_value = {now.tv_sec + 5000, 0}});
  ASSERT_TRUE(trip.save({fd.get()}));
  ASSERT_TRUE(trip.restore());
  const itimerspec copy = state_of(trip.fd(0)), original = state_of(fd.get());
  EXPECT_NEAR(static_cast<double>(copy.it_value.tv_sec), static_cast<double>(original.it_value.tv_sec), 1.0);
}

TEST(TimerFd, UnreadExpirationsComeBackAndAnUnarmedTimerStaysSo) {
  RoundTrip trip;
  UniqueFd expired = make_timer(CLOCK_MONOTONIC, 0, {.it_interval = {}, .it_value = {0, 1}});
  UniqueFd repeated = make_timer(CLOCK_MONOTONIC, 0, {.it_interval = {0, 1'000'000}, .it_value = {0, 1}});
  UniqueFd unarmed = make_timer(CLOCK_MONOTONIC, 0, {});
  pollfd wait{.fd = expired.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&wait, 1, 120'000), 1);
  pollfd wait_repeated{.fd = repeated.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&wait_repeated, 1, 120'000), 1);
  ASSERT_TRUE(trip.save({expired.get(), repeated.get(), unarmed.get()}));
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  std::uint64_t count = 0;
  ASSERT_EQ(::read(trip.fd(0), &count, sizeof count), 8);
  EXPECT_EQ(count, 1u);
  ASSERT_EQ(::read(trip.fd(1), &count, sizeof count), 8);
  EXPECT_GE(count, 1u);
  EXPECT_EQ(::read(trip.fd(2), &count, sizeof count), -1);
  EXPECT_EQ(state_of(trip.fd(2)).it_value.tv_nsec, 0);
}

}  // namespace
}  // namespace stasis
