// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace stasis::kernel {
namespace {

const std::string kText =
    "Name:\tmy:pro g\nUmask:\t0022\nState:\tT "
    "(stopped)\nTgid:\t5912\nNgid:\t0\nPid:\t5912\nPPid:\t5910\nTracerPid:\t7\n"
    "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t256\nGroups:\t4 27 1000 \nNStgid:\t5912\t1\nNSpid:\t5912\t1\n"
    "NSpgid:\t5910\t0\nNSsid:\t3003\t0\nKthread:\t0\nVmSize:\t    3060 kB\nVmRSS:\t    1688 kB\nCoreDumping:\t0\n"
    "THP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\nThreads:\t2\nSigQ:\t3/96551\nSigPnd:\t0000000000000001\n"
    "ShdPnd:\t0000000000000200\nSigBlk:\t8000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n"
    "CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000001\nCapBnd:\t000001ffffffffff\n"
    "CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"
    "Speculation_Store_Bypass:\tthread vulnerable\nSpeculationIndirectBranch:\tconditional enabled\n"
    "Cpus_allowed:\t1,00000005\nCpus_allowed_list:\t0,2,32\nMems_allowed:\t1\nMems_allowed_list:\t0\n";

TEST(Status, ReadsEveryKeyItKnows) {
  const auto s = parse_status(kText);
  ASSERT_TRUE(s) << s.error().to_string();
  EXPECT_EQ(s->name, "my:pro g");
  EXPECT_EQ(s->umask, 022u);
  EXPECT_EQ(s->state, 'T');
  EXPECT_EQ(s->tracer_pid, 7);
  EXPECT_EQ(s->uid, (ProcStatus::Ids{1, 2, 3, 4}));
  EXPECT_EQ(s->gid, (ProcStatus::Ids{5, 6, 7, 8}));
  EXPECT_THAT(s->groups, testing::ElementsAre(4, 27, 1000));
  EXPECT_THAT(s->ns_pid, testing::ElementsAre(5912, 1));
  EXPECT_EQ(s->threads, 2u);
  EXPECT_EQ(s->vm_rss, 1688u * 1024);
  EXPECT_EQ(s->sig_queued, 3u);
  EXPECT_EQ(s->sig_pending, 1u);
  EXPECT_EQ(s->sig_shared_pending, 0x200u);
  EXPECT_EQ(s->sig_blocked, 1ull << 63);
  EXPECT_EQ(s->sig_caught, 0x4002u);
  EXPECT_EQ(s->cap_permitted, 0x1fffeffffffu);
  EXPECT_TRUE(s->no_new_privs);
  EXPECT_EQ(s->seccomp, 2u);
  EXPECT_EQ(s->seccomp_filters, 3u);
  EXPECT_EQ(s->thp_enabled, true);
  EXPECT_EQ(s->speculation_store_bypass, "thread vulnerable");
  ASSERT_EQ(s->cpus_allowed.size(), 33u);
  EXPECT_TRUE(s->cpus_allowed[0] && s->cpus_allowed[2] && s->cpus_allowed[32]);
  EXPECT_FALSE(s->cpus_allowed[1]);
}

// Replaces the value of one key.
std::string with(std::string_view key, std::string_view value) {
  std::string text = kText;
  const auto at = text.find("\n" + std::string(key) + ":\t") + key.size() + 3;
  return text.replace(at, text.find('\n', at) - at, value);
}

TEST(Status, RefusesMalformedValues) {
  EXPECT_FALSE(parse_status(with("Umask", "0092")));
  EXPECT_FALSE(parse_status(with("Uid", "1\t2\t3")));
  EXPECT_FALSE(parse_status(with("Uid", "1\t2\t3\t4\t5")));
  EXPECT_FALSE(parse_status(with("Groups", "4 x")));
  EXPECT_FALSE(parse_status(with("SigBlk", "12345678123456789")));
  EXPECT_FALSE(parse_status(with("NoNewPrivs", "2")));
  EXPECT_FALSE(parse_status(with("Cpus_allowed", "")));
  EXPECT_FALSE(parse_status(with("SigQ", "3")));
  EXPECT_FALSE(parse_status(with("State", "")));
  EXPECT_FALSE(parse_status(with("VmRSS", "1688")));
  EXPECT_TRUE(parse_status(with("Groups", "")));
}

TEST(Status, RefusesTextThatEndsTooEarlyOrHoldsOtherThings) {
  EXPECT_FALSE(parse_status(""));
  EXPECT_FALSE(parse_status(kText.substr(0, kText.find("Cpus_allowed"))));
  EXPECT_FALSE(parse_status(kText + "no colon here\n"));
  EXPECT_TRUE(parse_status(kText + "NewKey:\tnew value\n"));
}

}  // namespace
}  // namespace stasis::kernel
