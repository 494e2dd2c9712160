// SPDX-License-Identifier: Apache-2.0
#include "tracee/batch_checks.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "tracee/local_batch.h"

namespace stasis {
namespace {

TEST(LocalBatch, RunsItsCallsHereAndReportsResultsAsAGateDoes) {
  LocalBatch local;
  const auto pid = local.batch().call(SYS_getpid);
  const auto bad = local.batch().call(SYS_close, -1);
  local.run();
  EXPECT_EQ(local.batch().result(pid), ::getpid());
  EXPECT_EQ(local.batch().result(bad), -EBADF);
}

TEST(BatchChecks, PassesWhenEveryCallDidWhatWasExpected) {
  LocalBatch local;
  BatchChecks checks;
  checks.add(local.batch().call(SYS_getppid), "asking for the parent");
  checks.add_equal(local.batch().call(SYS_getpid), ::getpid(), "asking for the pid");
  local.batch().call(SYS_close, -1);  // nobody minds
  local.run();
  EXPECT_EQ(checks.size(), 2u);
  EXPECT_TRUE(checks.verify(local.batch()));
}

TEST(BatchChecks, NamesTheFirstCallThatFailed) {
  LocalBatch local;
  BatchChecks checks;
  checks.add(local.batch().call(SYS_getppid), "asking for the parent");
  checks.add(local.batch().call(SYS_close, -1), "closing nothing");
  checks.add(local.batch().call(SYS_dup, -1), "copying nothing");
  local.run();
  const auto result = checks.verify(local.batch());
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().sys_errno(), EBADF);
  EXPECT_NE(result.error().message().find("closing nothing"), std::string::npos);
}

TEST(BatchChecks, AnUnexpectedValueIsAFailure) {
  LocalBatch local;
  BatchChecks checks;
  checks.add_equal(local.batch().call(SYS_getpid), 0, "asking for the pid");
  local.run();
  const auto result = checks.verify(local.batch());
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message().find("asking for the pid"), std::string::npos);
}

TEST(BatchChecks, LackOfRightsNamesWhatIsNeeded) {
  LocalBatch local;
  BatchChecks checks;
  checks.add(local.batch().call(SYS_setns, -1, 0), "entering nothing", "CAP_NOTHING");
  checks.add_equal(local.batch().call(SYS_getpid), 0, "being somebody else", "CAP_ELSE");
  local.run();
  BatchChecks only_second;
  only_second.add_equal(1, 0, "being somebody else", "CAP_ELSE");
  const auto result = only_second.verify(local.batch());
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kMissingCapability);
  EXPECT_NE(result.error().help().find("CAP_ELSE"), std::string::npos);
  // EBADF is no lack of rights: it keeps its own code.
  EXPECT_EQ(checks.verify(local.batch()).error().code(), Errc::kSystem);
}

}  // namespace
}  // namespace stasis
