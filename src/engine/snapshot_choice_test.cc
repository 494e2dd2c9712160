// SPDX-License-Identifier: Apache-2.0
#include "engine/snapshot_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace stasis {
namespace {

using enum SnapshotMode;
using testing::ElementsAre;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST(SnapshotChoice, LittleIsWrittenWhileTheTreeStands) {
  EXPECT_THAT(ways_to_try({.bytes = 5 * kMiB}), ElementsAre(kFreeze));
  EXPECT_THAT(ways_to_try({.bytes = 6 * kMiB}), ElementsAre(kCow, kFreeze));
  EXPECT_THAT(ways_to_try({.bytes = 14 * kMiB, .processes = 10}), ElementsAre(kFreeze));
}

TEST(SnapshotChoice, MuchIsProtectedWhereThatMayBe) {
  EXPECT_THAT(ways_to_try({.bytes = kMuchToSave}), ElementsAre(kCow, kFreeze));
  EXPECT_THAT(ways_to_try({.bytes = kMuchToSave + 1}), ElementsAre(kWp, kCow, kFreeze));
  EXPECT_THAT(ways_to_try({.bytes = 4096 * kMiB, .may_be_protected = false}), ElementsAre(kCow, kFreeze));
}

TEST(SnapshotChoice, WhatIsReadInTheFreezeTakesNoLongerThanToProtectAll) {
  EXPECT_EQ(too_much_written(320 * kMiB, true), 8 * kMiB);
  EXPECT_EQ(too_much_written(4000 * kMiB, true), 40 * kMiB);
  EXPECT_EQ(too_much_written(4000 * kMiB, false), 128 * kMiB);
}

}  // namespace
}  // namespace stasis
