// SPDX-License-Identifier: Apache-2.0
#include "kernel/probe.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "kernel/kcmp.h"
#include "kernel/proc_dir.h"

namespace stasis::kernel {
namespace {

TEST(Probe, EveryRowAnswersAndSaysWhyItIsMissing) {
  for (const FeatureState& state : probe_features()) {
    ASSERT_NE(state.feature, nullptr);
    EXPECT_EQ(state.available, state.why_not.empty()) << state.feature->name;
    RecordProperty(std::string(state.feature->name), state.available ? "yes" : state.why_not);
    EXPECT_EQ(state.why_not.find("trial process"), std::string::npos) << state.feature->name << ": " << state.why_not;
  }
}

TEST(Probe, AgreesWithTheCallsItStandsFor) {
  EXPECT_EQ(probe_feature(*find_feature("kcmp")).available,
            kcmp(KcmpType::kVm, HostPid(::getpid()), HostPid(::getpid())).has_value());
  // Tests can't run without these, as other tests here use them.
  EXPECT_TRUE(probe_feature(*find_feature("ptrace")).available);
  EXPECT_TRUE(probe_feature(*find_feature("pidfd_getfd")).available);
}

TEST(Probe, LeavesNothingBehind) {
  const auto proc = ProcDir::open(HostPid(::getpid()));
  ASSERT_TRUE(proc);
  const auto fds = *proc->fds();
  const auto user = *proc->ns(Namespace::kUser), mounts = *proc->ns(Namespace::kMount);
  const auto vmas = *proc->maps();
  probe_features();
  EXPECT_EQ(*proc->fds(), fds);
  EXPECT_EQ(*proc->ns(Namespace::kUser), user);
  EXPECT_EQ(*proc->ns(Namespace::kMount), mounts);
  EXPECT_EQ(std::ranges::count_if(*proc->maps(), &Vma::kernel_special),
            std::ranges::count_if(vmas, &Vma::kernel_special));
  EXPECT_TRUE(proc->children()->empty());
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
}

TEST(Probe, NamesAreKnownOrNot) {
  EXPECT_EQ(find_feature("no_such_feature"), nullptr);
  for (const Feature& feature : features()) {
    EXPECT_EQ(find_feature(feature.name), &feature);
    EXPECT_FALSE(feature.purpose.empty() || feature.without.empty());
  }
}

}  // namespace
}  // namespace stasis::kernel
