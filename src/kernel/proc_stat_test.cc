// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_stat.h"

#include <gtest/gtest.h>

#include <string>

namespace stasis::kernel {
namespace {

const std::string kFields =
    " S 1 1234 3003 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 3133440 422 18446744073709551615 100 200 300 0 0 0 "
    "0 0 0 0 0 0 17 1 0 0 0 0 0 400 500 600 700 800 900 1000 -1";

TEST(Stat, ReadsAllFields) {
  const auto s = parse_stat("1234 (cat)" + kFields + "\n");
  ASSERT_TRUE(s) << s.error().to_string();
  EXPECT_EQ(s->pid, 1234);
  EXPECT_EQ(s->comm, "cat");
  EXPECT_EQ(s->state, 'S');
  EXPECT_EQ(s->session, 3003);
  EXPECT_EQ(s->tpgid, -1);
  EXPECT_EQ(s->starttime, 12345u);
  EXPECT_EQ(s->rsslim, ~0ull);
  EXPECT_EQ(s->exit_signal, 17);
  EXPECT_EQ(s->start_data, 400u);
  EXPECT_EQ(s->env_end, 1000u);
  EXPECT_EQ(s->exit_code, -1);
}

TEST(Stat, CommMayHoldAnything) {
  for (const std::string comm : {"a) S 1 (b", ") (", "", "x\ny", "((("}) {
    const auto s = parse_stat("7 (" + comm + ")" + kFields);
    ASSERT_TRUE(s) << comm;
    EXPECT_EQ(s->comm, comm);
  }
}

TEST(Stat, RefusesWhatIsMalformed) {
  const std::string good = "7 (x)" + kFields;
  EXPECT_FALSE(parse_stat(""));
  EXPECT_FALSE(parse_stat("7 x" + kFields));
  EXPECT_FALSE(parse_stat("7 )x(" + kFields));
  EXPECT_FALSE(parse_stat("z (x)" + kFields));
  for (std::size_t cut = 0; cut + 3 < good.size(); ++cut) {
    const auto s = parse_stat(good.substr(0, cut));
    EXPECT_FALSE(s) << good.substr(0, cut);
  }
}

TEST(Stat, IgnoresFieldsThatALaterKernelAdds) { EXPECT_TRUE(parse_stat("7 (x)" + kFields + " 1 2 3\n")); }

}  // namespace
}  // namespace stasis::kernel
