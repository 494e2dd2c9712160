// SPDX-License-Identifier: Apache-2.0
#include "resource/insist.h"

#include <gtest/gtest.h>

namespace stasis {
namespace {

Result<void> works() { return {}; }
Result<void> take_fails() { return Error(Errc::kSystem, "taking failed"); }
Result<void> put_fails() { return Error(Errc::kTimeout, "putting failed"); }

TEST(TakeAndPutBack, WhatWasTakenIsPutBackOnceWhateverFails) {
  for (auto* const take : {works, take_fails}) {
    int put = 0;
    const auto done = take_and_put_back("test", "it", take, [&] { ++put; });
    EXPECT_EQ(done.has_value(), take == works);
    EXPECT_EQ(put, 1);
  }
  int put = 0;
  EXPECT_THROW((void)take_and_put_back("test", "it", []() -> Result<void> { throw 1; }, [&] { ++put; }), int);
  EXPECT_EQ(put, 1);
}

TEST(TakeAndPutBack, ALossIsSaidWithTheNameOfTheObject) {
  auto done = take_and_put_back("test", "the queue /q", works, put_fails);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message(), "the queue /q: not all that was in it could be put back: putting failed");
  EXPECT_EQ(done.error().code(), Errc::kTimeout);
  done = take_and_put_back("test", "the queue /q", take_fails, put_fails);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message(),
            "the queue /q: not all that was in it could be put back: taking failed: putting failed");
}

}  // namespace
}  // namespace stasis
