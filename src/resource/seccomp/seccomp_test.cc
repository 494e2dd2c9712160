// SPDX-License-Identifier: Apache-2.0
#include "resource/seccomp/seccomp.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <array>

#include "kernel/ptrace.h"
#include "resource/task_obstacles/observer.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

SeccompFilter filter(std::uint64_t word) { return {.program = {word}}; }

TEST(Seccomp, WhatAllThreadsHaveInCommonAreTheirFirstFilters) {
  const SeccompRecord one{.filters = {filter(1), filter(2), filter(3)}};
  const SeccompRecord two{.filters = {filter(1), filter(2), filter(4), filter(3)}};
  const SeccompRecord three{.filters = {filter(2)}};
  const auto common = [](std::initializer_list<const SeccompRecord*> threads) {
    return common_filters(std::span(threads.begin(), threads.size()));
  };
  EXPECT_EQ(common({}), 0u);
  EXPECT_EQ(common({&one}), 3u);
  EXPECT_EQ(common({&one, &two}), 2u);
  EXPECT_EQ(common({&two, &one, &two}), 2u);
  EXPECT_EQ(common({&one, &three}), 0u);
  EXPECT_EQ(common({&one, nullptr}), 0u);
  EXPECT_EQ(common({nullptr, &one}), 0u);
}

// A stopped child under filters with these in them, and what is read of it.
template <class Check>
void read_filters(std::initializer_list<std::uint32_t> results, Check check) {
  if (!Observer::here()->may_suspend_seccomp) GTEST_SKIP() << "needs CAP_SYS_ADMIN in the first user namespace";
  testing::Child confined([&] {
    for (const std::uint32_t result : results) {
      // The second is never come to.
      sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW), BPF_STMT(BPF_RET | BPF_K, result)};
      const sock_fprog program{2, code};
      if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return false;
    }
    return true;
  });
  ASSERT_TRUE(confined.ready());
  ASSERT_TRUE(kernel::ptrace_seize(confined.pid(), kernel::kSuspendSeccomp));
  ASSERT_TRUE(kernel::ptrace_interrupt(confined.pid()));
  ASSERT_TRUE(kernel::wait_task(confined.pid(), kernel::WaitMode::kBlock));
  SeccompTable table;
  check(table.read(confined.pid(), 2), table.read(confined.pid(), 2));
  ASSERT_TRUE(kernel::ptrace_detach(confined.pid()));
}

TEST(Seccomp, FiltersAreReadOldestFirstAndKeptOnce) {
  read_filters({SECCOMP_RET_ALLOW, SECCOMP_RET_LOG}, [](const auto& first, const auto& second) {
    ASSERT_TRUE(first) << first.error().to_string();
    ASSERT_TRUE(second);
    EXPECT_EQ(*first, *second);
    ASSERT_EQ((*first)->filters.size(), 2u);
    EXPECT_EQ((*first)->filters[0].program.at(1) >> 32, SECCOMP_RET_ALLOW);
    EXPECT_EQ((*first)->filters[1].program.at(1) >> 32, SECCOMP_RET_LOG);
    EXPECT_FALSE((*first)->strict);
  });
}

TEST(Seccomp, AFilterThatAsksAnotherProgramIsNamed) {
  read_filters({SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF}, [](const auto& first, const auto&) {
    ASSERT_FALSE(first);
    EXPECT_EQ(first.error().code(), Errc::kSeccomp);
  });
}

TEST(Seccomp, HostileRecordsAreRefused) {
  EXPECT_TRUE(testing::restore_record(SeccompRecord{.strict = true, .filters = {}}, kind::kSeccomp));
  EXPECT_TRUE(testing::restore_record(SeccompRecord{.filters = {filter(1)}}, kind::kSeccomp));
  EXPECT_FALSE(testing::restore_record(SeccompRecord{}, kind::kSeccomp));
  EXPECT_FALSE(testing::restore_record(SeccompRecord{.strict = true, .filters = {filter(1)}}, kind::kSeccomp));
  EXPECT_FALSE(testing::restore_record(SeccompRecord{.filters = {SeccompFilter{}}}, kind::kSeccomp));
}

}  // namespace
}  // namespace stasis
