// SPDX-License-Identifier: Apache-2.0
#include "work/timer_wheel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace stasis::detail {
namespace {

constexpr std::int64_t kMs = 1'000'000;

std::vector<std::int64_t> times_of(const TimerWheel::Chain& chain) {
  std::vector<std::int64_t> times;
  for (const TimerNode* timer = chain.first; timer != nullptr; timer = timer->next) times.push_back(timer->expiry);
  EXPECT_EQ(times.size(), chain.count);
  return times;
}

TEST(TimerWheel, IsEmptyAtFirst) {
  TimerWheel wheel;
  EXPECT_TRUE(wheel.empty());
  EXPECT_EQ(wheel.next_expiry(), TimerWheel::kNever);
  EXPECT_EQ(wheel.expire(5 * kMs).count, 0U);
}

TEST(TimerWheel, FiresAtTheExactTimeAndNotANanosecondEarlier) {
  TimerWheel wheel;
  for (const std::int64_t delay : {std::int64_t{1}, kMs, 63 * kMs, 64 * kMs, 67 * kMs, 5'000 * kMs, 86'400'000 * kMs}) {
    TimerNode timer;
    const std::int64_t start = 123'456'789;
    (void)wheel.expire(start);
    TimerWheel fresh;
    ASSERT_TRUE(fresh.insert(timer, start + delay, start));
    EXPECT_EQ(fresh.next_expiry(), start + delay);
    EXPECT_EQ(fresh.expire(start + delay - 1).count, 0U) << delay;
    EXPECT_EQ(fresh.next_expiry(), start + delay);
    EXPECT_EQ(fresh.expire(start + delay).first, &timer) << delay;
    EXPECT_TRUE(fresh.empty());
  }
}

TEST(TimerWheel, FiresInOrderOfTimeWhateverTheOrderAndLevelOfInsertion) {
  TimerWheel wheel;
  TimerNode far;
  TimerNode near;
  TimerNode middle;
  ASSERT_TRUE(wheel.insert(far, 70 * kMs, 0));
  EXPECT_EQ(wheel.expire(50 * kMs).count, 0U);
  ASSERT_TRUE(wheel.insert(near, 100 * kMs, 50 * kMs));
  ASSERT_TRUE(wheel.insert(middle, 71 * kMs, 50 * kMs));
  EXPECT_THAT(times_of(wheel.expire(200 * kMs)), testing::ElementsAre(70 * kMs, 71 * kMs, 100 * kMs));
}

TEST(TimerWheel, TimersOfOneTimeAndDelayFireInOrderOfInsertion) {
  TimerWheel wheel;
  std::vector<TimerNode> timers(100);
  for (TimerNode& timer : timers) ASSERT_TRUE(wheel.insert(timer, 3'000 * kMs, 0));
  const TimerWheel::Chain due = wheel.expire(3'000 * kMs);
  const TimerNode* expected = timers.data();
  for (const TimerNode* timer = due.first; timer != nullptr; timer = timer->next) EXPECT_EQ(timer, expected++);
  EXPECT_EQ(due.count, 100U);
}

TEST(TimerWheel, ManyDueAtOnceFireInOrderAndStably) {
  // Within one bucket, over many, and so far apart that there are too many digits to sort by.
  for (const std::int64_t span : {std::int64_t{1}, 200 * kMs, 3'000 * kMs, 86'400'000 * kMs, std::int64_t{1} << 61}) {
    SCOPED_TRACE(span);
    std::mt19937_64 random(11);
    TimerWheel wheel;
    std::vector<TimerNode> timers(20'000);
    for (TimerNode& timer : timers) {
      const auto delay = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(span)) / 8 * 8;  // some equal
      ASSERT_TRUE(wheel.insert(timer, 10 * kMs + delay, 0));
    }
    for (std::size_t i = 0; i < timers.size(); i += 3) wheel.erase(timers[i]);
    const std::int64_t middle = 10 * kMs + span / 3;
    std::size_t fired = 0;
    for (const std::int64_t now : {middle, 10 * kMs + span}) {
      const TimerWheel::Chain due = wheel.expire(now);
      const TimerNode* before = nullptr;
      for (const TimerNode* timer = due.first; timer != nullptr; before = timer, timer = timer->next) {
        ASSERT_LE(timer->expiry, now);
        ASSERT_NE((timer - timers.data()) % 3, 0);
        if (before == nullptr) continue;
        ASSERT_LE(before->expiry, timer->expiry);
        if (before->expiry == timer->expiry) {
          ASSERT_LT(before, timer);
        }
      }
      fired += due.count;
    }
    EXPECT_EQ(fired, timers.size() - (timers.size() + 2) / 3);
    EXPECT_TRUE(wheel.empty());
  }
}

TEST(TimerWheel, AnErasedTimerDoesNotFire) {
  TimerWheel wheel;
  std::vector<TimerNode> timers(500);
  std::int64_t time = 0;
  for (TimerNode& timer : timers) ASSERT_TRUE(wheel.insert(timer, time += kMs, 0));
  // All but every tenth, so that buckets are compacted and emptied.
  for (std::size_t i = 0; i < timers.size(); ++i) {
    if (i % 10 != 0) wheel.erase(timers[i]);
  }
  EXPECT_EQ(wheel.size(), 50U);
  EXPECT_EQ(wheel.expire(1'000 * kMs).count, 50U);
}

TEST(TimerWheel, CompactionKeepsEveryPositionRight) {
  TimerWheel wheel;
  std::vector<TimerNode> timers(1000);
  for (TimerNode& timer : timers) ASSERT_TRUE(wheel.insert(timer, 10 * kMs, 0));  // one bucket
  for (std::size_t i = 0; i < 990; ++i) wheel.erase(timers[i]);
  for (std::size_t i = 990; i < 999; ++i) wheel.erase(timers[i]);  // after compactions
  EXPECT_EQ(wheel.expire(10 * kMs).first, &timers[999]);
}

TEST(TimerWheel, ErasingTheEarliestCostsALookAndNotALostTimer) {
  TimerWheel wheel;
  TimerNode early;
  TimerNode late;
  ASSERT_TRUE(wheel.insert(early, 20 * kMs, 0));
  ASSERT_TRUE(wheel.insert(late, 20 * kMs + 5, 0));  // same bucket
  wheel.erase(early);
  EXPECT_LE(wheel.next_expiry(), 20 * kMs + 5);
  EXPECT_EQ(wheel.expire(20 * kMs).count, 0U);
  EXPECT_EQ(wheel.next_expiry(), 20 * kMs + 5);
}

TEST(TimerWheel, ClearTakesAll) {
  TimerWheel wheel;
  std::vector<TimerNode> timers(300);
  for (std::size_t i = 0; i < timers.size(); ++i) {
    ASSERT_TRUE(wheel.insert(timers[i], static_cast<std::int64_t>(i * i * i) * kMs, 0));
  }
  EXPECT_EQ(wheel.clear().count, 300U);
  EXPECT_TRUE(wheel.empty());
  EXPECT_EQ(wheel.next_expiry(), TimerWheel::kNever);
}

TEST(TimerWheel, TheFarthestTimeHasABucket) {
  TimerWheel wheel;
  TimerNode timer;
  ASSERT_TRUE(wheel.insert(timer, TimerWheel::kNever - 1, 1));
  EXPECT_EQ(wheel.expire(TimerWheel::kNever / 2).count, 0U);
  EXPECT_EQ(wheel.expire(TimerWheel::kNever - 1).first, &timer);
}

TEST(TimerWheel, ATimerOfThePastIsDueAtOnce) {
  TimerWheel wheel;
  (void)wheel.expire(1'000'000 * kMs);
  TimerNode timer;
  ASSERT_TRUE(wheel.insert(timer, 3, 1'000'000 * kMs));
  EXPECT_EQ(wheel.next_expiry(), 3);
  EXPECT_EQ(wheel.expire(1'000'000 * kMs).first, &timer);
}

// Against a multimap, with steps from nanoseconds to days.
TEST(TimerWheel, BehavesLikeASortedMapUnderRandomUse) {
  std::mt19937_64 random(20240611);
  for (int round = 0; round < 20; ++round) {
    TimerWheel wheel;
    std::vector<TimerNode> timers(400);
    std::vector<std::multimap<std::int64_t, TimerNode*>::iterator> places(timers.size());
    std::multimap<std::int64_t, TimerNode*> model;
    for (auto& place : places) place = model.end();
    std::int64_t now = static_cast<std::int64_t>(random() % (1ULL << 50));
    const auto span = [&] { return static_cast<std::int64_t>(random() >> (16 + random() % 48)); };
    for (int step = 0; step < 4000; ++step) {
      const std::size_t which = random() % timers.size();
      if (random() % 4 != 0) {
        if (places[which] != model.end()) {
          wheel.erase(timers[which]);
          model.erase(places[which]);
          places[which] = model.end();
        } else {
          const std::int64_t expiry = now + span();
          ASSERT_TRUE(wheel.insert(timers[which], expiry, now));
          places[which] = model.emplace(expiry, &timers[which]);
        }
      } else {
        now += span() / 64;
        if (!model.empty()) {
          ASSERT_LE(wheel.next_expiry(), model.begin()->first);
        }
        std::vector<std::int64_t> expected;
        while (!model.empty() && model.begin()->first <= now) {
          expected.push_back(model.begin()->first);
          places[static_cast<std::size_t>(model.begin()->second - timers.data())] = model.end();
          model.erase(model.begin());
        }
        ASSERT_EQ(times_of(wheel.expire(now)), expected);
      }
      ASSERT_EQ(wheel.size(), model.size());
    }
  }
}

}  // namespace
}  // namespace stasis::detail
