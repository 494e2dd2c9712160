// SPDX-License-Identifier: Apache-2.0
#include "resource/limits/process_limits.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "resource/testing/child.h"

namespace stasis {
namespace {

using testing::Child;
using testing::Frozen;

ProcessLimits ask(Frozen& frozen) {
  Batch batch = frozen.batch();
  const LimitsQuery query(batch);
  frozen.run(batch);
  auto limits = query.take(batch);
  EXPECT_TRUE(limits) << limits.error().to_string();
  return limits ? *limits : ProcessLimits{};
}

Result<void> restore(Frozen& fresh, const ProcessLimits& wanted) {
  const ProcessLimits inherited = ask(fresh);
  return fresh.run_checked(
      [&](Batch& batch, BatchChecks& checks) { restore_limits(wanted, inherited, batch, checks); });
}

// Each limit something of its own below the present one.
bool lower_all() {
  for (std::size_t i = 0; i < kernel::kLimitCount; ++i) {
    rlimit limit{};
    if (::getrlimit(static_cast<__rlimit_resource_t>(i), &limit) != 0) return false;
    limit.rlim_max = std::min<rlim_t>(limit.rlim_max, (rlim_t{1} << 40) + i * 4096);
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_cur, (rlim_t{1} << 39) + i * 4096);
    if (::setrlimit(static_cast<__rlimit_resource_t>(i), &limit) != 0) return false;
  }
  return true;
}

TEST(ProcessLimits, AreReadAsProcShowsThem) {
  Child lowered(lower_all);
  ASSERT_TRUE(lowered.ready());
  Frozen frozen(lowered.pid());
  const ProcessLimits limits = ask(frozen);
  const kernel::Limits shown = *frozen.proc().limits();
  for (std::size_t i = 0; i < kernel::kLimitCount; ++i) {
    EXPECT_EQ(limits.soft[i], shown[i].soft) << kernel::limit_name(i);
    EXPECT_EQ(limits.hard[i], shown[i].hard) << kernel::limit_name(i);
  }
  EXPECT_NE(limits, *own_limits());
}

TEST(ProcessLimits, AreRestoredInAFreshProcess) {
  Child lowered(lower_all);
  Child fresh;
  ASSERT_TRUE(lowered.ready() && fresh.ready());
  Frozen frozen_lowered(lowered.pid());
  Frozen frozen_fresh(fresh.pid());
  const ProcessLimits wanted = ask(frozen_lowered);
  EXPECT_EQ(ask(frozen_fresh), *own_limits());
  const auto done = restore(frozen_fresh, wanted);
  EXPECT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(*frozen_fresh.proc().limits(), *frozen_lowered.proc().limits());
}

TEST(ProcessLimits, OnlyWhatDiffersIsSet) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  Batch batch = frozen.batch();
  BatchChecks checks;
  restore_limits(*own_limits(), *own_limits(), batch, checks);
  EXPECT_TRUE(batch.empty());
}

TEST(ProcessLimits, AHardLimitOutOfReachIsNamedWithItsCapability) {
  Child weak([] {
    const rlimit low{.rlim_cur = 10, .rlim_max = 20};
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct none[2]{};
    return ::setrlimit(RLIMIT_NOFILE, &low) == 0 && ::syscall(SYS_capset, &header, none) == 0;
  });
  ASSERT_TRUE(weak.ready());
  Frozen frozen(weak.pid());
  ProcessLimits wanted = ask(frozen);
  wanted.hard[RLIMIT_NOFILE] = 21;
  const auto refused = restore(frozen, wanted);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kMissingCapability);
  EXPECT_NE(refused.error().message().find("open files"), std::string::npos) << refused.error().to_string();
  EXPECT_NE(refused.error().help().find("CAP_SYS_RESOURCE"), std::string::npos);
}

TEST(ProcessLimits, SurviveTheImage) {
  const ProcessLimits limits = *own_limits();
  std::vector<std::byte> bytes;
  ASSERT_TRUE(encode(limits, bytes));
  EXPECT_EQ(*decode<ProcessLimits>(bytes, "limits"), limits);
}

TEST(ProcessLimits, AForeignImageDoesNotRaiseHardLimits) {
  const ImageOwner user{.trust = ImageTrust::kOwner, .uid = 1000, .gid = 1000, .groups = {}};
  ProcessLimits inherited;
  inherited.soft.fill(5);
  inherited.hard.fill(10);
  ProcessLimits wanted = inherited;
  wanted.soft[RLIMIT_CORE] = 10;
  EXPECT_TRUE(check_limits(wanted, inherited, user));
  wanted.hard[RLIMIT_CORE] = 11;
  EXPECT_EQ(check_limits(wanted, inherited, user).error().code(), Errc::kRefused);
  EXPECT_TRUE(check_limits(wanted, inherited, ImageOwner{}));
  wanted.soft[RLIMIT_CORE] = 12;
  EXPECT_EQ(check_limits(wanted, inherited, ImageOwner{}).error().code(), Errc::kBadImage);
}

}  // namespace
}  // namespace stasis
