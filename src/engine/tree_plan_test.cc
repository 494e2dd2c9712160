// SPDX-License-Identifier: Apache-2.0
#include "engine/tree_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>

namespace stasis {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Birth = TreeNode::Birth;
using Kind = TreeNode::Kind;

// A process with objects of its own.
ProcessRecord process(int pid, int parent, int session, int group) {
  ProcessRecord record;
  record.pid = ImagePid(pid);
  record.parent = ImagePid(parent);
  record.session = ImagePid(session);
  record.process_group = ImagePid(group);
  record.threads = 1;
  record.memory = ObjRef(pid * 10 + 1);
  record.file_table = ObjRef(pid * 10 + 2);
  record.fs = ObjRef(pid * 10 + 3);
  record.sighand = ObjRef(pid * 10 + 4);
  return record;
}

TreePlan plan(const std::vector<ProcessRecord>& records, SessionPolicy policy = SessionPolicy::kForeground) {
  auto made = TreePlan::make(records, policy);
  EXPECT_TRUE(made) << made.error().to_string();
  return made ? *std::move(made) : TreePlan{};
}

TEST(TreePlan, ChildrenComeFromTheirParents) {
  const TreePlan made = plan({process(10, 0, 5, 5), process(11, 10, 5, 5), process(12, 11, 5, 5)});
  ASSERT_EQ(made.nodes.size(), 3u);
  EXPECT_EQ(made.nodes[0].creator, kCoordinator);
  EXPECT_EQ(made.nodes[1].creator, 0u);
  EXPECT_EQ(made.nodes[2].creator, 1u);
  EXPECT_THAT(made.nodes[0].children, ElementsAre(1u));
  EXPECT_FALSE(made.nodes[0].leads_session);
  EXPECT_FALSE(made.needs_reaper);
}

TEST(TreePlan, ADaemonIsBornInTheOldSessionAndLeavesIt) {
  const TreePlan made = plan({process(10, 0, 10, 10), process(11, 10, 11, 11)});
  EXPECT_TRUE(made.nodes[0].leads_session);
  EXPECT_TRUE(made.nodes[1].leads_session);
  EXPECT_EQ(made.nodes[1].birth, Birth::kInSession);
}

TEST(TreePlan, AChildThatStayedBehindIsBornBeforeItsParentLeaves) {
  // 10 left the surroundings' session 5 after it had 11; 12 came later. A daemon's child of the same kind below.
  std::vector<ProcessRecord> records = {process(1, 0, 5, 5), process(10, 1, 10, 10), process(11, 10, 5, 5),
                                        process(12, 10, 10, 10)};
  const TreePlan made = plan(records);
  EXPECT_EQ(made.nodes[2].creator, 1u);
  EXPECT_EQ(made.nodes[2].birth, Birth::kBeforeSession);
  EXPECT_EQ(made.nodes[3].birth, Birth::kInSession);
}

TEST(TreePlan, DetachedTheRootLeadsTheSurroundingsSession) {
  const TreePlan made = plan({process(10, 0, 5, 5), process(11, 10, 5, 5)}, SessionPolicy::kDetached);
  EXPECT_TRUE(made.nodes[0].leads_session);
  EXPECT_EQ(made.nodes[1].birth, Birth::kInSession);
}

TEST(TreePlan, AChainOfAnyLengthIsPlanned) {
  constexpr int kLength = 100'000;
  std::vector<ProcessRecord> records;
  for (int i = 0; i < kLength; ++i) records.push_back(process(10 + i, i == 0 ? 0 : 9 + i, 5, 5));
  const TreePlan made = plan(records);
  ASSERT_EQ(made.nodes.size(), records.size());
  EXPECT_EQ(made.nodes.back().creator, static_cast<std::size_t>(kLength - 2));
}

TEST(TreePlan, WhoHasPagesOfItsParentIsClonedWhenTheyAreThere) {
  const std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(11, 10, 5, 5), process(12, 11, 5, 5),
                                              process(13, 10, 5, 5)};
  const auto made = TreePlan::make(records, SessionPolicy::kForeground, {false, true, true, false});
  ASSERT_TRUE(made);
  for (const std::size_t i : {1u, 2u}) EXPECT_TRUE(made->nodes[i].forks_memory && made->nodes[i].needs_memory) << i;
  for (const std::size_t i : {0u, 3u}) EXPECT_FALSE(made->nodes[i].forks_memory || made->nodes[i].needs_memory) << i;
}

TEST(TreePlan, WhoIsBornBeforeItsParentLeavesTheSessionDoesNotWaitForItsPages) {
  const std::vector<ProcessRecord> records = {process(1, 0, 5, 5), process(10, 1, 10, 10), process(11, 10, 5, 5)};
  const auto made = TreePlan::make(records, SessionPolicy::kForeground, {false, true, true});
  ASSERT_TRUE(made);
  EXPECT_TRUE(made->nodes[1].forks_memory);
  ASSERT_EQ(made->nodes[2].birth, Birth::kBeforeSession);
  EXPECT_FALSE(made->nodes[2].forks_memory || made->nodes[2].needs_memory);
  EXPECT_FALSE(made->nodes[1].late_session);
}

TEST(TreePlan, NobodyWaitsForPagesWhileThoseBeforeItNeedIt) {
  // 20 is an orphan of session 30: its maker, a helper, comes from 30, which comes from 15.
  std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(20, 10, 30, 30), process(15, 10, 5, 5),
                                        process(30, 15, 30, 30)};
  records[0].attributes.child_subreaper = true;
  const std::vector<bool> all = {false, true, true, true};
  auto made = TreePlan::make(records, SessionPolicy::kForeground, all);
  ASSERT_TRUE(made) << made.error().to_string();
  ASSERT_EQ(made->nodes[made->nodes[1].creator].kind, Kind::kHelper);
  EXPECT_FALSE(made->nodes[1].forks_memory);  // its parent does not make it
  EXPECT_FALSE(made->nodes[3].forks_memory);
  // 15 may wait for 10's, which come before everybody's.
  EXPECT_TRUE(made->nodes[2].forks_memory);
  // With the orphan behind all others nothing speaks against it.
  records = {records[0], process(15, 10, 5, 5), process(30, 15, 30, 30), process(20, 10, 30, 30)};
  made = TreePlan::make(records, SessionPolicy::kForeground, all);
  ASSERT_TRUE(made) << made.error().to_string();
  EXPECT_TRUE(made->nodes[2].forks_memory);
}

TEST(TreePlan, AZombieMustHaveEndedInAWayThatThereIs) {
  const auto made = [](std::int32_t status) {
    std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(11, 10, 5, 5)};
    records[1].zombie = true;
    records[1].wait_status = status;
    return TreePlan::make(records, SessionPolicy::kForeground);
  };
  for (const std::int32_t status : {0, 0xff00, SIGKILL, SIGSEGV | 0x80, SIGTERM, 64}) {
    EXPECT_TRUE(made(status)) << std::hex << status;
  }
  for (const std::int32_t status : {0x10000, -1, 0x137f, 0x7f, 0xffff, SIGCHLD, SIGSTOP, SIGTSTP, 65, 0x80, 0x109}) {
    const auto refused = made(status);
    ASSERT_FALSE(refused) << std::hex << status;
    EXPECT_EQ(refused.error().code(), Errc::kBadImage);
  }
}

TEST(TreePlan, ProcessesThatCouldOnlyMakeEachOtherAreBad) {
  // 20's session is led by its own child 30.
  const auto made = TreePlan::make(std::vector{process(10, 0, 10, 10), process(20, 0, 30, 30), process(30, 20, 30, 30)},
                                   SessionPolicy::kForeground);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Errc::kBadImage);
}

TEST(TreePlan, AProcessEitherStandsOrHasGoneOn) {
  const auto made = [](bool stopped, UnaskedChange unasked) {
    std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(11, 10, 5, 5)};
    records[1].stopped = stopped;
    records[1].unasked = unasked;
    return TreePlan::make(records, SessionPolicy::kForeground).has_value();
  };
  EXPECT_TRUE(made(true, UnaskedChange::kNone));
  EXPECT_TRUE(made(true, UnaskedChange::kStopped));
  EXPECT_TRUE(made(false, UnaskedChange::kContinued));
  EXPECT_FALSE(made(true, UnaskedChange::kContinued));
  EXPECT_FALSE(made(false, UnaskedChange::kStopped));
}

TEST(TreePlan, AnOrphanOfADeadSessionComesFromAHelper) {
  std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(20, 10, 17, 17)};
  records[0].attributes.child_subreaper = true;
  const TreePlan made = plan(records);
  ASSERT_EQ(made.nodes.size(), 3u);
  EXPECT_EQ(made.nodes[2].kind, Kind::kHelper);
  EXPECT_EQ(made.nodes[2].pid, ImagePid(17));
  EXPECT_TRUE(made.nodes[2].leads_session);
  EXPECT_EQ(made.nodes[2].creator, 0u);
  EXPECT_EQ(made.nodes[1].creator, 2u);
}

TEST(TreePlan, AnOrphanOfTheNamespaceGoesToTheCoordinator) {
  const TreePlan made = plan({process(10, 0, 5, 5), process(20, 0, 17, 17)});
  ASSERT_EQ(made.nodes.size(), 3u);
  EXPECT_EQ(made.nodes[2].creator, kCoordinator);
  EXPECT_TRUE(made.needs_reaper);
}

TEST(TreePlan, AnOrphanOfALiveSessionHasAHelperBelowItsLeader) {
  std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(11, 10, 11, 11), process(20, 10, 11, 20)};
  records[0].attributes.child_subreaper = true;
  const TreePlan made = plan(records);
  ASSERT_EQ(made.nodes.size(), 4u);
  EXPECT_EQ(made.nodes[3].creator, 1u);
  EXPECT_FALSE(made.nodes[3].pid);
  EXPECT_FALSE(made.nodes[3].leads_session);
  EXPECT_EQ(made.nodes[2].creator, 3u);
}

TEST(TreePlan, ASessionThatNobodyCanMakeIsRefused) {
  const auto made =
      TreePlan::make(std::vector{process(10, 0, 5, 5), process(20, 10, 17, 17)}, SessionPolicy::kForeground);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Errc::kUnsupportedTask);
  EXPECT_THAT(made.error().message(), HasSubstr("process 20 is in session 17"));
}

TEST(TreePlan, WhoSharesIsClonedWithTheFlags) {
  std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(11, 10, 5, 5), process(12, 10, 5, 5)};
  records[1].file_table = records[0].file_table;
  records[1].memory = records[0].memory;
  records[2].fs = records[1].fs;
  const TreePlan made = plan(records);
  EXPECT_EQ(made.nodes[1].flags, std::uint64_t{CLONE_VM} | CLONE_FILES);
  EXPECT_TRUE(made.nodes[1].needs_memory);
  EXPECT_EQ(made.nodes[2].flags, std::uint64_t{CLONE_FS} | CLONE_PARENT);
  EXPECT_EQ(made.nodes[2].creator, 1u);
}

TEST(TreePlan, SharesOfStrangersAreRefused) {
  std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(11, 10, 5, 5), process(12, 11, 5, 5)};
  records[2].fs = records[0].fs;
  EXPECT_EQ(TreePlan::make(records, SessionPolicy::kForeground).error().code(), Errc::kUnsupportedTask);
}

TEST(TreePlan, RecordsThatMakeNoTreeAreBad) {
  const auto code = [](const std::vector<ProcessRecord>& records) {
    const auto made = TreePlan::make(records, SessionPolicy::kForeground);
    return made ? Errc::kInternal : made.error().code();
  };
  EXPECT_EQ(code({}), Errc::kBadImage);
  EXPECT_EQ(code({process(0, 0, 5, 5)}), Errc::kBadImage);
  EXPECT_EQ(code({process(10, 3, 5, 5)}), Errc::kBadImage);
  EXPECT_EQ(code({process(10, 0, 5, 5), process(10, 10, 5, 5)}), Errc::kBadImage);
  EXPECT_EQ(code({process(10, 0, 5, 5), process(12, 11, 5, 5), process(11, 10, 5, 5)}), Errc::kBadImage);
  std::vector<ProcessRecord> records = {process(10, 0, 5, 5), process(11, 10, 5, 5), process(12, 11, 5, 5)};
  records[1].zombie = true;
  EXPECT_EQ(code(records), Errc::kBadImage);
}

}  // namespace
}  // namespace stasis
