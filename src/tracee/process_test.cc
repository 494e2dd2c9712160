// SPDX-License-Identifier: Apache-2.0
#include "tracee/process.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

namespace stasis {
namespace {

constexpr std::size_t kThreads = 2;

struct Shared {
  std::array<std::atomic<std::uint64_t>, kThreads> beats{};
  std::atomic<int> wrong{0};
};

// A child that counts in two threads, checking registers and vector state as it goes. Killed at the end.
class Target {
 public:
  Target() {
    shared_ = static_cast<Shared*>(
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    new (shared_) Shared;
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::thread other([this] { count(3.5, shared_->beats[1]); });
      count(1.25, shared_->beats[0]);
    }
    // A thread that counts is set up: from here on the layout of the process stays as it is.
    while (shared_->beats[0] < 1000 || shared_->beats[1] < 1000) std::this_thread::yield();
  }
  ~Target() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::munmap(shared_, sizeof(Shared));
  }
  HostPid pid() const { return HostPid(pid_); }
  std::array<std::uint64_t, kThreads> beats() const { return {shared_->beats[0], shared_->beats[1]}; }
  // Waits until each thread of the target has moved on; says whether they did so rightly.
  bool goes_on() const {
    const auto before = beats();
    const auto moved = [&] { return beats()[0] >= before[0] + 1000 && beats()[1] >= before[1] + 1000; };
    for (int i = 0; i < 120'000 && !moved(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (::waitpid(pid_, nullptr, WNOHANG) != 0) return false;
    }
    return moved() && shared_->wrong == 0;
  }

 private:
  [[noreturn]] void count(double seed, std::atomic<std::uint64_t>& beats) {
    for (;;) {
      volatile double x = seed;
      double sum = 0;
      for (int i = 0; i < 64; ++i) sum += x;
      if (sum != 64 * seed) shared_->wrong = 1;
      ++beats;
    }
  }
  Shared* shared_ = nullptr;
  pid_t pid_ = -1;
};

struct Frozen {
  std::unique_ptr<TracedProcess> process;
  std::vector<kernel::Vma> vmas;
};

Frozen freeze(HostPid pid, const Patience& patience) {
  Frozen frozen;
  auto process = TracedProcess::attach(pid, TracedProcess::Seccomp::kNone);
  EXPECT_TRUE(process) << process.error().to_string();
  frozen.process = std::move(*process);
  const auto settled = frozen.process->settle(patience);
  EXPECT_TRUE(settled) << settled.error().to_string();
  frozen.vmas = *frozen.process->proc().maps();
  return frozen;
}

TEST(TracedProcess, StopsEveryThreadAndLetsThemRunOn) {
  Target target;
  Patience patience(std::chrono::seconds(120), nullptr);
  {
    Frozen frozen = freeze(target.pid(), patience);
    EXPECT_EQ(frozen.process->threads().size(), 2u);
    const auto beats = target.beats();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(target.beats(), beats);
  }
  EXPECT_TRUE(target.goes_on());
}

TEST(TracedProcess, GateRunsCallsInEachThreadAndLeavesNothingBehind) {
  Target target;
  Patience patience(std::chrono::seconds(120), nullptr);
  Frozen frozen = freeze(target.pid(), patience);
  const Gadgets gadgets = find_gadgets(frozen.process->memory(), frozen.vmas);
  EXPECT_TRUE(gadgets.safe());
  const auto opened = frozen.process->open_gate(gadgets, frozen.vmas, patience);
  ASSERT_TRUE(opened) << opened.error().to_string();
  Batch batch(frozen.process->carrier_slot());
  const auto getpid = batch.call(SYS_getpid);
  const auto bad = batch.call(SYS_close, -1);
  ASSERT_TRUE(frozen.process->run(batch, patience));
  EXPECT_EQ(batch.result(getpid), target.pid().value());
  EXPECT_EQ(batch.check(bad, "close").error().sys_errno(), EBADF);
  std::vector<std::int64_t> tids;
  const auto ran = frozen.process->run_in_each_thread([](TracedThread&, Batch& b) { b.call(SYS_gettid); },
                                                      [&](TracedThread& thread, Batch& b) {
                                                        EXPECT_EQ(b.result(0), thread.tid().value());
                                                        tids.push_back(b.result(0));
                                                      },
                                                      patience);
  ASSERT_TRUE(ran) << ran.error().to_string();
  EXPECT_EQ(tids.size(), 2u);
  const auto resumed = frozen.process->resume();
  EXPECT_TRUE(resumed) << resumed.error().to_string();
  EXPECT_TRUE(target.goes_on());
  EXPECT_TRUE(kernel::same_layout(frozen.vmas, *kernel::ProcDir::open(target.pid())->maps()));
}

TEST(TracedProcess, SurvivesAKilledCoordinatorWhileTheGateStands) {
  Target target;
  const auto before = *kernel::ProcDir::open(target.pid())->maps();
  const pid_t coordinator = ::fork();
  if (coordinator == 0) {
    Patience patience(std::chrono::seconds(120), nullptr);
    Frozen frozen = freeze(target.pid(), patience);
    if (!frozen.process->open_gate(find_gadgets(frozen.process->memory(), frozen.vmas), frozen.vmas, patience))
      ::_exit(1);
    Batch batch(frozen.process->carrier_slot());
    batch.call(SYS_getpid);
    if (!frozen.process->run(batch, patience)) ::_exit(1);
    ::raise(SIGKILL);
  }
  int status = 0;
  ::waitpid(coordinator, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  // Its main thread comes back to its own work only by the call that takes the gate away.
  EXPECT_TRUE(target.goes_on());
  EXPECT_TRUE(kernel::same_layout(before, *kernel::ProcDir::open(target.pid())->maps()));
}

}  // namespace
}  // namespace stasis
