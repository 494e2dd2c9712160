// SPDX-License-Identifier: Apache-2.0
#include "kernel/ptrace.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <string>
#include <vector>

#include "kernel/trial.h"

namespace stasis::kernel {
namespace {

// A child that sleeps in pause(2), seized and stopped; killed and reaped at the end.
class StoppedChild : public ::testing::Test {
 protected:
  void SetUp() override {
    // Blocked before the fork, so that the child never runs without its mask.
    sigset_t blocked, old;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    ASSERT_EQ(::sigprocmask(SIG_BLOCK, &blocked, &old), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      for (;;) ::pause();
    }
    ::sigprocmask(SIG_SETMASK, &old, nullptr);
    ASSERT_GT(pid, 0);
    child_ = HostPid(pid);
    ASSERT_TRUE(ptrace_seize(child_, kTraceSysGood | kExitKill));
    stop();
  }

  void TearDown() override {
    if (!child_) return;
    ::kill(child_.value(), SIGKILL);
    for (;;) {
      const auto status = wait_task(child_, WaitMode::kBlock);
      if (!status || !(*status)->stopped()) break;
    }
  }

  void stop() {
    ASSERT_TRUE(ptrace_interrupt(child_));
    const auto status = wait_task(child_, WaitMode::kBlock);
    ASSERT_TRUE(status);
    ASSERT_TRUE((*status)->event_stop());
    EXPECT_FALSE((*status)->group_stop());
  }

  HostPid child_;
};

TEST_F(StoppedChild, RegistersRoundTrip) {
  std::vector<std::byte> regs(4096);
  const auto got = ptrace_get_regset(child_, NT_PRSTATUS, regs);
  ASSERT_TRUE(got);
  EXPECT_GE(*got, 27 * sizeof(std::uint64_t));
  ASSERT_LT(*got, regs.size());
  EXPECT_TRUE(ptrace_set_regset(child_, NT_PRSTATUS, std::span(regs).first(*got)));
  std::vector<std::byte> xstate(65536);
  const auto size = ptrace_get_regset(child_, NT_X86_XSTATE, xstate);
  ASSERT_TRUE(size);
  EXPECT_GE(*size, 576u);
}

TEST_F(StoppedChild, SignalMaskRoundTrips) {
  const std::uint64_t before = *ptrace_get_sigmask(child_);
  EXPECT_TRUE(before & (1u << (SIGUSR1 - 1)));
  ASSERT_TRUE(ptrace_set_sigmask(child_, before | 1));
  EXPECT_EQ(*ptrace_get_sigmask(child_), before | 1);
}

TEST_F(StoppedChild, PendingSignalsOfThreadAndProcessAreToldApart) {
  ASSERT_EQ(::kill(child_.value(), SIGUSR1), 0);
  ASSERT_EQ(::syscall(SYS_tgkill, child_.value(), child_.value(), SIGUSR2), 0);
  const auto process = ptrace_peek_siginfo(child_, SignalQueue::kProcess);
  const auto thread = ptrace_peek_siginfo(child_, SignalQueue::kThread);
  ASSERT_TRUE(process && thread);
  ASSERT_EQ(process->size(), 1u);
  EXPECT_EQ((*process)[0].si_signo, SIGUSR1);
  EXPECT_EQ((*process)[0].si_pid, ::getpid());
  ASSERT_EQ(thread->size(), 1u);
  EXPECT_EQ((*thread)[0].si_signo, SIGUSR2);
}

TEST_F(StoppedChild, ManyPendingSignalsAreAllSeen) {
  constexpr int kCount = 100;
  for (int i = 0; i < kCount; ++i) {
    sigval value{};
    value.sival_int = i;
    ASSERT_EQ(::sigqueue(child_.value(), SIGRTMIN + 5, value), 0);
  }
  // They are deliverable, but a stopped tracee takes none.
  const auto pending = ptrace_peek_siginfo(child_, SignalQueue::kProcess);
  ASSERT_TRUE(pending);
  ASSERT_EQ(pending->size(), static_cast<std::size_t>(kCount));
  for (int i = 0; i < kCount; ++i) EXPECT_EQ((*pending)[static_cast<std::size_t>(i)].si_value.sival_int, i);
}

TEST_F(StoppedChild, RseqConfigurationIsReportedWhereTheKernelKnowsIt) {
  const auto config = ptrace_get_rseq_configuration(child_);
  if (!config) {
    EXPECT_EQ(config.error().code(), Errc::kKernelFeature);
    GTEST_SKIP() << config.error().to_string();
  }
  if (config->pointer != 0) {
    EXPECT_GE(config->size, 20u);
  }
}

TEST_F(StoppedChild, SyscallUserDispatchIsOffAndCanBeWrittenBack) {
  const auto config = ptrace_get_syscall_user_dispatch(child_);
  if (!config) {
    EXPECT_EQ(config.error().code(), Errc::kKernelFeature);
    GTEST_SKIP() << config.error().to_string();
  }
  EXPECT_EQ(config->mode, 0u);
  EXPECT_TRUE(ptrace_set_syscall_user_dispatch(child_, *config));
}

TEST_F(StoppedChild, DetachLetsItRunAndWaitingSaysItIsStillAlive) {
  ASSERT_TRUE(ptrace_detach(child_));
  const auto status = wait_task(child_, WaitMode::kPoll);
  ASSERT_TRUE(status);
  EXPECT_FALSE(status->has_value());
}

TEST_F(StoppedChild, DeathIsReportedAndLaterRequestsSayVanished) {
  ::kill(child_.value(), SIGKILL);
  const auto status = wait_task(child_, WaitMode::kBlock);
  ASSERT_TRUE(status);
  ASSERT_TRUE((*status)->killed());
  EXPECT_EQ((*status)->term_signal(), SIGKILL);
  const auto mask = ptrace_get_sigmask(child_);
  ASSERT_FALSE(mask);
  EXPECT_EQ(mask.error().code(), Errc::kVanished);
  child_ = HostPid();
}

TEST_F(StoppedChild, ASecondTracerIsToldWhoHoldsIt) {
  const auto second = try_in_child([&] { return ptrace_seize(child_, 0); });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::kAlreadyTraced);
  EXPECT_NE(second.error().message().find(std::to_string(::getpid())), std::string::npos);
}

TEST(Seize, AnotherUsersProcessIsRefusedByName) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  const auto result = try_in_child([]() -> Result<void> {
    if (::setresuid(65534, 65534, 65534) != 0) return Error(Errc::kDisabled, "no other users here");
    return ptrace_seize(HostPid(::getppid()), 0);
  });
  ASSERT_FALSE(result);
  if (result.error().code() == Errc::kDisabled) GTEST_SKIP() << result.error().message();
  EXPECT_EQ(result.error().code(), Errc::kNotOwner);
  EXPECT_NE(result.error().help().find("user 0"), std::string::npos) << result.error().help();
}

TEST(WaitStatus, DecodesEveryKindOfStop) {
  EXPECT_TRUE((WaitStatus{(SIGTRAP | 0x80) << 8 | 0x7f}.syscall_stop()));
  EXPECT_TRUE((WaitStatus{kEventStop << 16 | SIGSTOP << 8 | 0x7f}.group_stop()));
  EXPECT_FALSE((WaitStatus{kEventStop << 16 | SIGTRAP << 8 | 0x7f}.group_stop()));
  EXPECT_EQ((WaitStatus{kEventClone << 16 | SIGTRAP << 8 | 0x7f}.event()), kEventClone);
  EXPECT_EQ((WaitStatus{7 << 8}.exit_code()), 7);
  EXPECT_TRUE(WaitStatus{7 << 8}.exited());
  EXPECT_TRUE(WaitStatus{SIGSEGV | 0x80}.killed());
  EXPECT_EQ(WaitStatus{SIGSEGV | 0x80}.term_signal(), SIGSEGV);
}

TEST(Wait, NoSuchChildIsVanished) {
  const auto status = wait_task(HostPid(1), WaitMode::kPoll);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Errc::kVanished);
}

}  // namespace
}  // namespace stasis::kernel
