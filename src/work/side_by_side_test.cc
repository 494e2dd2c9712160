// SPDX-License-Identifier: Apache-2.0
#include "work/side_by_side.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <vector>

#include "work/test_support.h"

namespace stasis {
namespace {

TEST(SideBySide, EveryPieceIsDoneOnce) {
  std::vector<std::atomic<int>> done(1000);
  std::vector<std::atomic<int>> at_place(most_side_by_side());
  std::atomic<int> collisions = 0;
  const auto result = side_by_side({.count = done.size()}, [&](std::size_t i, std::size_t place) -> Result<void> {
    if (at_place.at(place)++ != 0) ++collisions;
    ++done[i];
    --at_place[place];
    return {};
  });
  ASSERT_TRUE(result);
  for (const auto& count : done) EXPECT_EQ(count, 1);
  EXPECT_EQ(collisions, 0);
}

TEST(SideBySide, NoPiecesAreNoWork) {
  const auto result = side_by_side(
      {.count = 0}, [](std::size_t, std::size_t) -> Result<void> { return Error(Errc::kInternal, "called"); });
  EXPECT_TRUE(result);
}

TEST(SideBySide, OfSeveralFailuresTheFirstPieceIsReported) {
  for (const std::size_t worth : {std::size_t{1}, std::size_t{1000}}) {
    std::atomic<bool> first_done = false;
    const auto result =
        side_by_side({.count = 100, .worth_a_thread = worth}, [&](std::size_t i, std::size_t) -> Result<void> {
          if (i == 0) {
            first_done = true;
            return Error(Errc::kInternal, "piece 0");
          }
          return Error(Errc::kInternal, "another");
        });
    ASSERT_FALSE(result);
    EXPECT_TRUE(first_done);
    EXPECT_NE(result.error().to_string().find("piece 0"), std::string::npos);
  }
}

TEST(SideBySide, APieceWithoutMemoryIsAnError) {
  for (const std::size_t worth : {std::size_t{1}, std::size_t{1000}}) {
    const auto result = side_by_side({.count = 100, .worth_a_thread = worth},
                                     [](std::size_t, std::size_t) -> Result<void> { throw std::bad_alloc(); });
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), Errc::kNoMemory);
  }
}

TEST(SideBySide, WithoutThreadsTheCallerDoesAll) {
  const test::NoThreads none;
  std::vector<int> done(100);
  const auto result =
      side_by_side({.count = done.size(), .threads = 4}, [&](std::size_t i, std::size_t) -> Result<void> {
        ++done[i];
        return {};
      });
  ASSERT_TRUE(result);
  for (const int count : done) EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace stasis
