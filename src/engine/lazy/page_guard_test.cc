// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/page_guard.h"

#include <gtest/gtest.h>

namespace stasis {
namespace {

// Threads are named by their numbers in their own pid namespace: who guards must know that these are not ours.
TEST(GuardBoard, KnowsOfANamespaceByItsProcessOne) {
  auto board = GuardBoard::create();
  ASSERT_TRUE(board) << board.error().to_string();
  EXPECT_FALSE(board->in_namespace());
  ASSERT_TRUE(board->add_process(7));
  EXPECT_FALSE(board->in_namespace());
  ASSERT_TRUE(board->add_init(8));
  EXPECT_TRUE(board->in_namespace());
}

}  // namespace
}  // namespace stasis
