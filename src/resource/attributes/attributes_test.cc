// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <fstream>
#include <thread>

#include "kernel/prctl.h"
#include "kernel/scheduling.h"
#include "resource/attributes/process_attributes.h"
#include "resource/attributes/thread_attributes.h"
#include "resource/testing/child.h"

namespace stasis {
namespace {

using testing::Child;
using testing::Frozen;

ThreadAttributes ask_thread(Frozen& frozen) {
  Batch batch = frozen.batch();
  const ThreadAttributeQuery query(batch);
  frozen.run(batch);
  auto attributes = query.take(batch, frozen.tid());
  EXPECT_TRUE(attributes) << attributes.error().to_string();
  return attributes ? *attributes : ThreadAttributes{};
}

ProcessAttributes ask_process(Frozen& frozen) {
  Batch batch = frozen.batch();
  const ProcessAttributeQuery query(batch);
  frozen.run(batch);
  auto attributes = query.take(batch, *OutsideAttributes::read(frozen.proc()));
  EXPECT_TRUE(attributes) << attributes.error().to_string();
  return attributes ? *attributes : ProcessAttributes{};
}

void restore_thread(Frozen& fresh, const ThreadAttributes& wanted, ParentDeath parent_death = ParentDeath::kRestore) {
  const ThreadAttributes inherited = ask_thread(fresh);
  const auto done = fresh.run_checked([&](Batch& batch, BatchChecks& checks) {
    restore_thread_attributes(wanted, inherited, parent_death, batch, checks);
  });
  EXPECT_TRUE(done) << done.error().to_string();
  const auto applied = apply_scheduling(wanted, fresh.tid());
  EXPECT_TRUE(applied) << applied.error().to_string();
}

// The last CPU that we may use.
std::size_t last_cpu() {
  const kernel::CpuMask mask = *kernel::get_affinity(HostPid(0));
  return mask.size() * 64 - 1 - static_cast<std::size_t>(std::countl_zero(mask.back()));
}

bool bind_to_last_cpu() {
  kernel::CpuMask mask(last_cpu() / 64 + 1);
  mask[last_cpu() / 64] = std::uint64_t{1} << last_cpu() % 64;
  return kernel::set_affinity(HostPid(0), mask).has_value();
}

bool set_odd_thread_attributes() {
  const bool good =
      ::prctl(PR_SET_NAME, "\xff\xfe odd\n)(") == 0 && bind_to_last_cpu() && ::prctl(PR_SET_TIMERSLACK, 77'777) == 0 &&
      ::prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0 && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
      ::prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0 && ::prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0 &&
      ::personality(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS) != -1 &&
      kernel::set_io_priority(HostPid(0), 2u << 13 | 6).has_value() &&
      kernel::set_sched_attr(HostPid(0), {.policy = SCHED_BATCH, .flags = kernel::kSchedResetOnFork, .nice = 7})
          .has_value();
  const unsigned long node_0 = 1;
  ::syscall(SYS_set_mempolicy, MPOL_BIND, &node_0, 65);                           // where there is NUMA
  ::prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);  // where it can be controlled
  return good;
}

TEST(ThreadAttributes, AreReadAsTheyWereSet) {
  Child odd(set_odd_thread_attributes);
  ASSERT_TRUE(odd.ready());
  Frozen frozen(odd.pid());
  const ThreadAttributes attributes = ask_thread(frozen);
  EXPECT_EQ(attributes.name, "\xff\xfe odd\n)(");
  EXPECT_EQ(attributes.nice, 7);
  EXPECT_EQ(attributes.policy, static_cast<std::uint32_t>(SCHED_BATCH));
  EXPECT_EQ(attributes.sched_flags, kernel::kSchedResetOnFork);
  EXPECT_EQ(attributes.sched_runtime, 0u);
  EXPECT_EQ(attributes.affinity[last_cpu() / 64], std::uint64_t{1} << last_cpu() % 64);
  EXPECT_EQ(attributes.all_cpus, std::thread::hardware_concurrency() == 1);
  EXPECT_EQ(attributes.io_priority, 2u << 13 | 6);
  EXPECT_EQ(attributes.timer_slack, 77'777u);
  EXPECT_EQ(attributes.parent_death_signal, SIGUSR2);
  EXPECT_TRUE(attributes.no_new_privs);
  EXPECT_EQ(attributes.tsc_mode, static_cast<std::uint32_t>(PR_TSC_SIGSEGV));
  EXPECT_EQ(attributes.mce_policy, static_cast<std::uint32_t>(PR_MCE_KILL_EARLY));
  EXPECT_EQ(attributes.personality, static_cast<std::uint32_t>(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS));
  const ThreadAttributes own = *own_thread_attributes();
  if ((own.speculation[0] & PR_SPEC_PRCTL) != 0) {
    EXPECT_NE(attributes.speculation[0] & PR_SPEC_DISABLE, 0u);
  }
}

TEST(ThreadAttributes, AreRestoredInAFreshProcess) {
  Child odd(set_odd_thread_attributes);
  Child fresh;
  ASSERT_TRUE(odd.ready() && fresh.ready());
  Frozen frozen_odd(odd.pid());
  Frozen frozen_fresh(fresh.pid());
  const ThreadAttributes wanted = ask_thread(frozen_odd);
  ASSERT_NE(ask_thread(frozen_fresh), wanted);
  restore_thread(frozen_fresh, wanted);
  EXPECT_EQ(ask_thread(frozen_fresh), wanted);
  restore_thread(frozen_fresh, wanted);  // twice is as good as once
  EXPECT_EQ(ask_thread(frozen_fresh), wanted);
  EXPECT_EQ(frozen_fresh.proc().thread_status(fresh.pid())->cpus_allowed,
            frozen_odd.proc().thread_status(odd.pid())->cpus_allowed);
  EXPECT_EQ(*frozen_fresh.proc().read("comm"), *frozen_odd.proc().read("comm"));
}

TEST(ThreadAttributes, NothingIsCalledWhereNothingDiffers) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  const ThreadAttributes own = *own_thread_attributes();
  EXPECT_EQ(ask_thread(frozen), own);
  Batch batch = frozen.batch();
  BatchChecks checks;
  restore_thread_attributes(own, own, ParentDeath::kRestore, batch, checks);
  EXPECT_TRUE(batch.empty());
}

TEST(ThreadAttributes, SurviveTheImage) {
  Child odd(set_odd_thread_attributes);
  ASSERT_TRUE(odd.ready());
  Frozen frozen(odd.pid());
  const ThreadAttributes attributes = ask_thread(frozen);
  std::vector<std::byte> bytes;
  ASSERT_TRUE(encode(attributes, bytes));
  EXPECT_EQ(*decode<ThreadAttributes>(bytes, "attributes"), attributes);
}

TEST(ThreadAttributes, ADetachedTaskHeedsNoParentsDeath) {
  Child odd(set_odd_thread_attributes);
  Child fresh;
  ASSERT_TRUE(odd.ready() && fresh.ready());
  Frozen frozen_odd(odd.pid());
  Frozen frozen_fresh(fresh.pid());
  restore_thread(frozen_fresh, ask_thread(frozen_odd), ParentDeath::kNone);
  EXPECT_EQ(ask_thread(frozen_fresh).parent_death_signal, 0);
}

TEST(ThreadAttributes, CpuidFaultingIsRestoredWhereTheProcessorHasIt) {
  Child odd([] { return ::syscall(SYS_arch_prctl, 0x1012, 0) == 0; });
  if (!odd.ready()) GTEST_SKIP() << "no CPUID faulting here";
  Child fresh;
  Frozen frozen_odd(odd.pid());
  Frozen frozen_fresh(fresh.pid());
  const ThreadAttributes wanted = ask_thread(frozen_odd);
  EXPECT_FALSE(wanted.cpuid_enabled);
  restore_thread(frozen_fresh, wanted);
  EXPECT_EQ(ask_thread(frozen_fresh), wanted);
}

TEST(ThreadAttributes, IdlePolicyKeepsItsNiceValue) {
  Child odd([] {
    return kernel::set_nice(HostPid(0), 4).has_value() &&
           kernel::set_sched_attr(HostPid(0), {.policy = kernel::kSchedIdle}).has_value();
  });
  Child fresh;
  ASSERT_TRUE(odd.ready() && fresh.ready());
  Frozen frozen_odd(odd.pid());
  Frozen frozen_fresh(fresh.pid());
  const ThreadAttributes wanted = ask_thread(frozen_odd);
  EXPECT_EQ(wanted.nice, 4);
  EXPECT_EQ(wanted.policy, kernel::kSchedIdle);
  restore_thread(frozen_fresh, wanted);
  EXPECT_EQ(ask_thread(frozen_fresh), wanted);
}

TEST(ThreadAttributes, RealTimePolicyKeepsItsNiceValue) {
  Child odd([] {
    return kernel::set_nice(HostPid(0), 3).has_value() &&
           kernel::set_sched_attr(HostPid(0), {.policy = SCHED_FIFO, .priority = 9}).has_value();
  });
  if (!odd.ready()) GTEST_SKIP() << "real-time policies are not permitted here";
  Child fresh;
  Frozen frozen_odd(odd.pid());
  Frozen frozen_fresh(fresh.pid());
  const ThreadAttributes wanted = ask_thread(frozen_odd);
  EXPECT_EQ(wanted.nice, 3);
  EXPECT_EQ(wanted.rt_priority, 9u);
  restore_thread(frozen_fresh, wanted);
  EXPECT_EQ(ask_thread(frozen_fresh), wanted);
}

TEST(ThreadAttributes, DeadlinePolicyIsRestored) {
  constexpr std::uint64_t kMs = 1'000'000;
  Child odd([] {
    return kernel::set_sched_attr(
               HostPid(0),
               {.policy = kernel::kSchedDeadline, .runtime = 1 * kMs, .deadline = 50 * kMs, .period = 100 * kMs})
        .has_value();
  });
  if (!odd.ready()) GTEST_SKIP() << "deadline policies are not permitted here";
  Child fresh;
  Frozen frozen_odd(odd.pid());
  Frozen frozen_fresh(fresh.pid());
  const ThreadAttributes wanted = ask_thread(frozen_odd);
  EXPECT_EQ(wanted.sched_deadline, 50 * kMs);
  restore_thread(frozen_fresh, wanted);
  EXPECT_EQ(ask_thread(frozen_fresh), wanted);
}

TEST(ThreadAttributes, AnAffinityToAbsentCpusIsLeftAlone) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  ThreadAttributes wanted = *own_thread_attributes();
  const kernel::CpuMask before = *kernel::get_affinity(fresh.pid());
  wanted.all_cpus = false;
  wanted.affinity.assign(1024, 0);
  wanted.affinity.back() = 1;
  EXPECT_TRUE(apply_scheduling(wanted, fresh.pid()));
  EXPECT_EQ(*kernel::get_affinity(fresh.pid()), before);
}

TEST(ThreadAttributes, AllCpusMeansAllOfThisMachine) {
  Child bound(bind_to_last_cpu);
  ASSERT_TRUE(bound.ready());
  ThreadAttributes wanted = *own_thread_attributes();
  if (!wanted.all_cpus) GTEST_SKIP() << "the test itself is bound to some CPUs";
  const kernel::CpuMask all = wanted.affinity;
  wanted.affinity = {0xff};  // of the machine it was saved on
  EXPECT_TRUE(apply_scheduling(wanted, bound.pid()));
  EXPECT_EQ(*kernel::get_affinity(bound.pid()), all);
}

TEST(ThreadAttributes, AForeignImageGetsNothingItsOwnerCouldNotSet) {
  const ThreadAttributes own = *own_thread_attributes();
  const ImageOwner user{.trust = ImageTrust::kOwner, .uid = 1000, .gid = 1000, .groups = {}};
  EXPECT_TRUE(check_thread_attributes(own, own, user));
  for (auto change :
       {+[](ThreadAttributes& a) { a.policy = SCHED_FIFO; }, +[](ThreadAttributes& a) { a.nice -= 1; },
        +[](ThreadAttributes& a) { a.io_priority = 1u << 13; }, +[](ThreadAttributes& a) { a.io_flusher = true; }}) {
    ThreadAttributes wanted = own;
    change(wanted);
    const auto checked = check_thread_attributes(wanted, own, user);
    ASSERT_FALSE(checked);
    EXPECT_EQ(checked.error().code(), Errc::kRefused);
    EXPECT_TRUE(check_thread_attributes(wanted, own, ImageOwner{}));
  }
}

bool set_odd_process_attributes() {
  ::prctl(kernel::kSetMemoryMerge, 1, 0, 0, 0);  // where the kernel has KSM
  ::prctl(kernel::kSetMdwe, 1, 0, 0, 0);         // Linux 6.3
  std::ofstream("/proc/self/oom_score_adj") << 321;
  std::ofstream("/proc/self/coredump_filter") << "0x3f";
  return ::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && ::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0 &&
         (::geteuid() != 0 || ::prctl(PR_SET_DUMPABLE, 0) == 0);  // root alone could look at it then
}

TEST(ProcessAttributes, AreReadAndRestoredInAFreshProcess) {
  Child odd(set_odd_process_attributes);
  Child fresh;
  ASSERT_TRUE(odd.ready() && fresh.ready());
  Frozen frozen_odd(odd.pid());
  const ProcessAttributes wanted = ask_process(frozen_odd);
  EXPECT_EQ(wanted.dumpable, ::geteuid() == 0 ? 0u : 1u);
  EXPECT_TRUE(wanted.child_subreaper);
  EXPECT_EQ(wanted.thp_disable, 1u);
  EXPECT_EQ(wanted.oom_score_adj, 321);
  EXPECT_EQ(wanted.coredump_filter, 0x3fu);
  EXPECT_FALSE(wanted.cgroups.empty());
  Frozen frozen_fresh(fresh.pid());
  const ProcessAttributes inherited = ask_process(frozen_fresh);
  ASSERT_NE(inherited, wanted);
  for (int twice = 0; twice < 2; ++twice) {
    const auto applied = apply_process_attributes(wanted, frozen_fresh.proc());
    EXPECT_TRUE(applied) << applied.error().to_string();
    const auto done = frozen_fresh.run_checked([&](Batch& batch, BatchChecks& checks) {
      restore_memory_attributes(wanted, inherited, batch, checks);
      restore_process_attributes(wanted, inherited, batch, checks);
    });
    EXPECT_TRUE(done) << done.error().to_string();
    EXPECT_EQ(ask_process(frozen_fresh), wanted);
  }
}

TEST(ProcessAttributes, SurviveTheImage) {
  const ProcessAttributes attributes{.dumpable = 2,
                                     .child_subreaper = true,
                                     .thp_disable = 3,
                                     .memory_merge = true,
                                     .mdwe = 1,
                                     .untag_mask = 5,
                                     .oom_score_adj = -1000,
                                     .coredump_filter = 7,
                                     .cgroups = {"0::/", "1:cpu:/a"}};
  std::vector<std::byte> bytes;
  ASSERT_TRUE(encode(attributes, bytes));
  EXPECT_EQ(*decode<ProcessAttributes>(bytes, "attributes"), attributes);
}

TEST(ProcessAttributes, AForeignImageDoesNotEscapeTheOutOfMemoryKiller) {
  const ImageOwner user{.trust = ImageTrust::kOwner, .uid = 1000, .gid = 1000, .groups = {}};
  ProcessAttributes wanted;
  wanted.oom_score_adj = -1;
  EXPECT_EQ(check_process_attributes(wanted, {}, user).error().code(), Errc::kRefused);
  EXPECT_TRUE(check_process_attributes(wanted, {}, ImageOwner{}));
  EXPECT_TRUE(check_process_attributes({}, {}, user));
}

}  // namespace
}  // namespace stasis
