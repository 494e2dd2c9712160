// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/pending_pages.h"

#include <gtest/gtest.h>

#include <limits>

namespace stasis {
namespace {

using Piece = PendingPages::Piece;

constexpr std::uint64_t kPage = 4096;

PendingPages pages(std::initializer_list<PageRun> runs) {
  PendingPages pending;
  pending.add(std::vector<PageRun>(runs));
  return pending;
}

TEST(PendingPages, FindsThePieceThatHoldsAnAddress) {
  const PendingPages pending =
      pages({{.start = 4 * kPage, .length = 2 * kPage}, {.start = 8 * kPage, .length = kPage}});
  EXPECT_FALSE(pending.find(3 * kPage));
  EXPECT_EQ(pending.find(5 * kPage), (Piece{4 * kPage, 2 * kPage, 4 * kPage}));
  EXPECT_FALSE(pending.find(6 * kPage));
  EXPECT_EQ(pending.find(8 * kPage), (Piece{8 * kPage, kPage, 8 * kPage}));
  EXPECT_EQ(pending.first().start, 4 * kPage);
}

TEST(PendingPages, WhatIsRemovedFromTheMiddleLeavesBothEnds) {
  PendingPages pending = pages({{.start = 0, .length = 10 * kPage}});
  pending.remove({.start = 3 * kPage, .length = 2 * kPage});
  EXPECT_EQ(pending.find(0), (Piece{0, 3 * kPage, 0}));
  EXPECT_FALSE(pending.find(3 * kPage));
  EXPECT_FALSE(pending.find(4 * kPage));
  EXPECT_EQ(pending.find(5 * kPage), (Piece{5 * kPage, 5 * kPage, 5 * kPage}));
}

TEST(PendingPages, AHoleIsRemovedOverSeveralPieces) {
  PendingPages pending = pages({{.start = 0, .length = 2 * kPage},
                                {.start = 4 * kPage, .length = kPage},
                                {.start = 6 * kPage, .length = 2 * kPage}});
  pending.remove({.start = kPage, .length = 6 * kPage});
  EXPECT_EQ(pending.find(0), (Piece{0, kPage, 0}));
  EXPECT_EQ(pending.first_in({.start = kPage, .length = 20 * kPage}), (Piece{7 * kPage, kPage, 7 * kPage}));
}

TEST(PendingPages, TheFirstInARangeIsCutToIt) {
  const PendingPages pending = pages({{.start = 0, .length = 10 * kPage}});
  EXPECT_EQ(pending.first_in({.start = 2 * kPage, .length = kPage}), (Piece{2 * kPage, kPage, 2 * kPage}));
  EXPECT_FALSE(pending.first_in({.start = 10 * kPage, .length = kPage}));
}

TEST(PendingPages, WhatMovesKeepsItsPlaceInTheImage) {
  PendingPages pending = pages({{.start = 0, .length = 4 * kPage}});
  pending.remove({.start = kPage, .length = kPage});
  pending.move({.start = 0, .length = 3 * kPage}, 100 * kPage);
  EXPECT_EQ(pending.find(100 * kPage), (Piece{100 * kPage, kPage, 0}));
  EXPECT_FALSE(pending.find(101 * kPage));
  EXPECT_EQ(pending.find(102 * kPage), (Piece{102 * kPage, kPage, 2 * kPage}));
  EXPECT_EQ(pending.first(), (Piece{3 * kPage, kPage, 3 * kPage}));
  EXPECT_EQ(pending.first_from({.start = 0, .length = 2 * kPage}), (Piece{100 * kPage, kPage, 0}));
  EXPECT_EQ(pending.first_from({.start = 2 * kPage, .length = kPage}), (Piece{102 * kPage, kPage, 2 * kPage}));
  EXPECT_FALSE(pending.first_from({.start = kPage, .length = kPage}));
}

TEST(PendingPages, WhatIsMovedOnTopOfOthersReplacesThem) {
  PendingPages pending = pages({{.start = 0, .length = 2 * kPage}, {.start = 8 * kPage, .length = 4 * kPage}});
  pending.move({.start = 0, .length = 2 * kPage}, 9 * kPage);
  EXPECT_EQ(pending.find(8 * kPage), (Piece{8 * kPage, kPage, 8 * kPage}));
  EXPECT_EQ(pending.find(9 * kPage), (Piece{9 * kPage, 2 * kPage, 0}));
  EXPECT_EQ(pending.find(11 * kPage), (Piece{11 * kPage, kPage, 11 * kPage}));
}

TEST(PendingPages, AMoveMayOverlapItself) {
  PendingPages pending = pages({{.start = 0, .length = 4 * kPage}});
  pending.move({.start = 0, .length = 4 * kPage}, 2 * kPage);
  EXPECT_FALSE(pending.find(0));
  EXPECT_EQ(pending.find(2 * kPage), (Piece{2 * kPage, 4 * kPage, 0}));
}

TEST(PendingPages, ARangeUpToTheEndOfAllAddressesDoesNotWrap) {
  PendingPages pending = pages({{.start = 4 * kPage, .length = kPage}});
  pending.remove({.start = 2 * kPage, .length = std::numeric_limits<std::uint64_t>::max()});
  EXPECT_TRUE(pending.empty());
}

}  // namespace
}  // namespace stasis
