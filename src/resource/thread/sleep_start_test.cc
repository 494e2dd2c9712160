// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/sleep_start.h"

#include <gtest/gtest.h>

namespace stasis {
namespace {

using namespace std::chrono_literals;
using TimePoint = SleepSigns::TimePoint;

// A machine that has been up for an hour; the run-queue clock has lost 20 s.
constexpr TimePoint kNow{3600s};
constexpr SleepSigns kAsleepFor5s{.exec_start_ns = 3575'000'000'000,
                                  .clock_zero = TimePoint(20s),
                                  .clock_read = kNow - 1ms,
                                  .thread_start = kNow - 60s,
                                  .now = kNow};

TEST(SleepStart, IsToldByTheClockOfTheRunQueue) { EXPECT_EQ(start_of_sleep(kAsleepFor5s), kNow - 5s); }

TEST(SleepStart, IsNotKnownOfAThreadThatWasMovedInItsSleep) {
  SleepSigns signs = kAsleepFor5s;
  signs.exec_start_ns = 0;
  EXPECT_EQ(start_of_sleep(signs), std::nullopt);
}

TEST(SleepStart, IsNotBeforeTheThreadWas) {
  SleepSigns signs = kAsleepFor5s;
  signs.thread_start = kNow - 100ms;
  EXPECT_EQ(start_of_sleep(signs), kNow - 100ms);
  signs.thread_start = kNow + 10ms;  // a clock in ticks
  EXPECT_EQ(start_of_sleep(signs), kNow);
}

TEST(SleepStart, IsNowWhereTheClockWasReadBeforeIt) {
  SleepSigns signs = kAsleepFor5s;
  signs.clock_read = kNow - 5001ms;
  EXPECT_EQ(start_of_sleep(signs), kNow);
}

TEST(SleepStart, IsNoLongerAgoThanTheTimeOut) {
  EXPECT_TRUE(plausible(kNow - 2s, kNow, 2s));
  EXPECT_TRUE(plausible(kNow - 2100ms, kNow, 2s));
  EXPECT_FALSE(plausible(kNow - 2500ms, kNow, 2s));
  EXPECT_FALSE(plausible(TimePoint(0s), kNow, 2s));
}

}  // namespace
}  // namespace stasis
