// SPDX-License-Identifier: Apache-2.0
#include "resource/system_v/segment.h"

#include <gtest/gtest.h>

namespace stasis {
namespace {

constexpr std::string_view kTable =
    "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      "
    "dtime\n"
    " 123456789          7   640                  5000    11    12      2  1000   100  1000   100          0          "
    "0\n"
    "         0          9  3600                  4096    11    12      1     0     0     0     0          0          "
    "0\n"
    "  nonsense          8   600\n";

TEST(Segment, TheLineOfASegmentIsFoundByItsId) {
  const auto live = parse_segment(kTable, 7);
  ASSERT_TRUE(live);
  EXPECT_EQ(live->key, 123456789);
  EXPECT_EQ(live->size, 5000u);
  EXPECT_EQ(live->mode, 0640u);
  EXPECT_EQ(live->uid, 1000u);
  EXPECT_EQ(live->gid, 100u);
  EXPECT_FALSE(live->deleted);
  EXPECT_FALSE(live->locked);
}

TEST(Segment, DeletedAndLockedAreBitsOfTheMode) {
  const auto deleted = parse_segment(kTable, 9);
  ASSERT_TRUE(deleted);
  EXPECT_TRUE(deleted->deleted);
  EXPECT_TRUE(deleted->locked);
  EXPECT_EQ(deleted->mode, 0600u);
}

TEST(Segment, OneThatIsNotThereOrMalformedIsNotFound) {
  EXPECT_FALSE(parse_segment(kTable, 6));
  EXPECT_FALSE(parse_segment(kTable, 8));
  EXPECT_FALSE(parse_segment("", 0));
}

}  // namespace
}  // namespace stasis
