// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_dir.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "kernel/trial.h"

namespace stasis::kernel {
namespace {

class OwnProcess : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(proc_) << proc_.error().to_string(); }
  Result<ProcDir> proc_ = ProcDir::open(HostPid(::getpid()));
};

TEST_F(OwnProcess, EveryFileIsUnderstood) {
  EXPECT_EQ(proc_->stat()->ppid, ::getppid());
  EXPECT_EQ(proc_->stat()->starttime, proc_->start_time());
  EXPECT_EQ(proc_->status()->uid.effective, ::geteuid());
  EXPECT_FALSE(proc_->maps()->empty());
  EXPECT_FALSE(proc_->smaps()->empty());
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_STACK, &limit), 0);
  EXPECT_EQ((*proc_->limits())[RLIMIT_STACK].soft, limit.rlim_cur);
  EXPECT_TRUE(proc_->timers());
  EXPECT_EQ(auxv_value(*proc_->auxv(), 6 /* AT_PAGESZ */), static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
  EXPECT_FALSE(proc_->mounts()->empty());
  EXPECT_TRUE(proc_->cgroups());
  EXPECT_FALSE(proc_->cmdline()->empty());
  EXPECT_TRUE(proc_->environ());
  EXPECT_TRUE(proc_->exe_link()->starts_with('/'));
  EXPECT_TRUE(proc_->cwd_link()->starts_with('/'));
  EXPECT_EQ(proc_->root_link(), "/");
  EXPECT_GT(*proc_->ns(Namespace::kUser), 0u);
}

TEST_F(OwnProcess, ThreadsAreListedWithTheirNames) {
  pid_t tid = 0;
  std::atomic_flag ready, leave;
  std::jthread thread([&] {
    tid = static_cast<pid_t>(::syscall(SYS_gettid));
    ::pthread_setname_np(::pthread_self(), "a) (b");
    ready.test_and_set();
    ready.notify_all();
    leave.wait(false);
  });
  ready.wait(false);
  EXPECT_THAT(*proc_->threads(), testing::Contains(HostPid(tid)));
  EXPECT_EQ(proc_->thread_comm(HostPid(tid)), "a) (b");
  EXPECT_EQ(proc_->thread_stat(HostPid(tid))->comm, "a) (b");
  EXPECT_EQ(proc_->thread_status(HostPid(tid))->tgid, ::getpid());
  const auto sched = proc_->thread_sched(HostPid(tid));
  if (sched) {
    EXPECT_TRUE(sched->exec_start_ns);
  }
  EXPECT_EQ(ProcDir::open(HostPid(tid)).error().code(), Errc::kNoSuchProcess);
  leave.test_and_set();
  leave.notify_all();
}

TEST_F(OwnProcess, DescriptorsAreListedAndDescribed) {
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_THAT(*proc_->fds(), testing::Contains(null.get()));
  const auto info = proc_->fdinfo(null.get());
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->flags & static_cast<unsigned>(O_CLOEXEC), static_cast<unsigned>(O_CLOEXEC));
  EXPECT_EQ(proc_->fd_link(null.get()), "/dev/null");
  EXPECT_TRUE(S_ISCHR(proc_->fd_stat(null.get())->st_mode));
  EXPECT_EQ(proc_->fdinfo(987654).error().code(), Errc::kVanished);
}

TEST_F(OwnProcess, PosixTimersAreListed) {
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  event.sigev_signo = SIGUSR1;
  timer_t timer{};
  ASSERT_EQ(::timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  const auto timers = proc_->timers();
  ::timer_delete(timer);
  ASSERT_TRUE(timers) << timers.error().to_string();
  ASSERT_EQ(timers->size(), 1u);
  EXPECT_EQ(timers->front().notify, SIGEV_NONE);
  EXPECT_EQ(timers->front().clock_id, CLOCK_MONOTONIC);
}

TEST_F(OwnProcess, ChildrenAreListedUntilTheyAreGoneThenTheirDirectoryVanishes) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd read_end(pipe_fds[0]), write_end(pipe_fds[1]);
  const pid_t pid = ::fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    write_end.reset();
    char byte = 0;
    (void)!::read(read_end.get(), &byte, 1);
    ::_exit(0);
  }
  EXPECT_THAT(*proc_->children(), testing::Contains(HostPid(pid)));
  const auto child = ProcDir::open(HostPid(pid));
  ASSERT_TRUE(child);
  write_end.reset();
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(child->check_alive());
  EXPECT_TRUE(child->stat()->zombie());
  EXPECT_TRUE(child->status()->zombie());
  ASSERT_EQ(::waitpid(pid, nullptr, 0), pid);
  EXPECT_EQ(child->check_alive().error().code(), Errc::kVanished);
  EXPECT_EQ(child->maps().error().code(), Errc::kVanished);
  EXPECT_EQ(child->threads().error().code(), Errc::kVanished);
  EXPECT_EQ(child->fds().error().code(), Errc::kVanished);
  EXPECT_EQ(ProcDir::open(HostPid(pid)).error().code(), Errc::kNoSuchProcess);
}

TEST_F(OwnProcess, AFileThatTheKernelLacksIsNotTakenForADeadProcess) {
  const auto text = proc_->read("no_such_file");
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code(), Errc::kSystem);
}

Result<void> become_nobody() {
  if (::setresuid(65534, 65534, 65534) != 0) return Error::from_errno(errno, "setresuid");
  return {};
}

TEST(ProcDir, SomebodyElsesProcessIsRefusedWithHelp) {
  if (::geteuid() != 0 || !try_in_child(become_nobody)) GTEST_SKIP() << "needs root to become somebody else";
  const auto result = try_in_child([]() -> Result<void> {
    STASIS_TRY(become_nobody());
    const ProcDir parent = STASIS_TRY(ProcDir::open(HostPid(::getppid())));
    STASIS_TRY(parent.fds());
    return {};
  });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kNotOwner);
  EXPECT_FALSE(result.error().help().empty());
  EXPECT_TRUE(result.error().message().starts_with("process ")) << result.error().message();
}

// The kernel lists them a page of text at a time. Ten thousand readings without an error mean what they say only if
// some were torn, which one in some hundred is.
TEST_F(OwnProcess, AreasAreReadThatMoveMeanwhile) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  constexpr std::size_t kAreas = 100;
  void* const memory = ::mmap(nullptr, kAreas * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::jthread mover([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      for (std::size_t i = 0; i < kAreas; i += 2) ::mprotect(static_cast<char*>(memory) + i * page, page, PROT_READ);
      ::mprotect(memory, kAreas * page, PROT_NONE);
    }
  });
  for (int i = 0; i < 500; ++i) {
    const auto maps = proc_->maps();
    ASSERT_TRUE(maps) << maps.error().to_string();
    const auto smaps = proc_->smaps();
    ASSERT_TRUE(smaps) << smaps.error().to_string();
  }
  mover.request_stop();
  mover.join();
  ::munmap(memory, kAreas * page);
}

}  // namespace
}  // namespace stasis::kernel
