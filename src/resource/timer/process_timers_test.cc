// SPDX-License-Identifier: Apache-2.0
#include "resource/timer/process_timers.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "resource/testing/child.h"

namespace stasis {
namespace {

using testing::Child;
using testing::Frozen;

constexpr std::uint64_t kSecond = 1'000'000'000;

ProcessTimers ask(Frozen& frozen, ImagePid thread) {
  Batch batch = frozen.batch();
  const TimersQuery query(*frozen.proc().timers(), batch);
  frozen.run(batch);
  const HostPid self = frozen.tid();
  auto timers = query.take(batch, [&](HostPid tid) { return tid == self ? std::optional(thread) : std::nullopt; });
  EXPECT_TRUE(timers) << timers.error().to_string();
  return timers ? *timers : ProcessTimers{};
}

bool add_timer(clockid_t clock, int notify, int signal, std::uint64_t value, time_t remaining, time_t interval) {
  sigevent event{};
  event.sigev_notify = notify;
  event.sigev_signo = signal;
  event.sigev_value.sival_ptr = reinterpret_cast<void*>(value);
  if (notify & SIGEV_THREAD_ID) event._sigev_un._tid = static_cast<int>(::syscall(SYS_gettid));
  int id = -1;
  const itimerspec times{.it_interval = {interval, 5}, .it_value = {remaining, remaining ? 7 : 0}};
  return ::syscall(SYS_timer_create, clock, &event, &id) == 0 &&
         ::syscall(SYS_timer_settime, id, 0, &times, nullptr) == 0;
}

bool skip_id() {
  int id = -1;
  return ::syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, &id) == 0 && ::syscall(SYS_timer_delete, id) == 0;
}

bool set_itimer(__itimer_which_t which, time_t remaining, time_t interval) {
  const itimerval times{.it_interval = {interval, 3}, .it_value = {remaining, 0}};
  return ::setitimer(which, &times, nullptr) == 0;
}

constexpr clockid_t kOwnProcessCpu = -6;  // what glibc makes of CLOCK_PROCESS_CPUTIME_ID
constexpr clockid_t kOwnThreadCpu = -2;

bool set_many_timers() {
  return add_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0xdead'beef'0000'0001, 1000, 10) && skip_id() && skip_id() &&
         add_timer(CLOCK_REALTIME, SIGEV_SIGNAL | SIGEV_THREAD_ID, 34, 42, 2000, 0) &&
         add_timer(CLOCK_BOOTTIME, SIGEV_NONE, 0, 43, 3000, 30) && skip_id() &&
         add_timer(kOwnProcessCpu, SIGEV_SIGNAL, SIGUSR2, 44, 4000, 40) &&
         add_timer(kOwnThreadCpu, SIGEV_SIGNAL, SIGUSR2, 45, 5000, 0) &&
         add_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGALRM, 46, 0, 0) &&  // not armed
         set_itimer(ITIMER_REAL, 6000, 60) && set_itimer(ITIMER_VIRTUAL, 7000, 0) && set_itimer(ITIMER_PROF, 8000, 80);
}

// `now` runs down from `then`: what time itself changes is taken out of the comparison.
void expect_counts_on(std::uint64_t now, std::uint64_t then) {
  EXPECT_LE(now, then);
  EXPECT_GT(now, then / 2);
}

void expect_same(ProcessTimers now, const ProcessTimers& then) {
  ASSERT_EQ(now.posix.size(), then.posix.size());
  for (std::size_t i = 0; i < now.posix.size(); ++i) {
    if (then.posix[i].remaining != 0) expect_counts_on(now.posix[i].remaining, then.posix[i].remaining);
    now.posix[i].remaining = then.posix[i].remaining;
    EXPECT_EQ(now.posix[i], then.posix[i]) << "timer " << then.posix[i].id;
  }
  for (auto member : {&ProcessTimers::real, &ProcessTimers::virt, &ProcessTimers::prof}) {
    // The CPU-time ones are rounded up to a tick.
    EXPECT_LE((now.*member).remaining, (then.*member).remaining + 20'000);
    EXPECT_GE((now.*member).remaining, (then.*member).remaining / 2);
    EXPECT_EQ((now.*member).interval, (then.*member).interval);
  }
}

Result<void> restore(Frozen& fresh, const ProcessTimers& wanted, TimerIds ids) {
  Result<void> planned;
  Result<void> done = fresh.run_checked(
      [&](Batch& batch, BatchChecks& checks) { planned = restore_timers(wanted, ids, batch, checks); });
  return planned ? std::move(done) : std::move(planned);
}

TEST(ProcessTimers, AreReadAsTheyWereSet) {
  Child armed(set_many_timers);
  ASSERT_TRUE(armed.ready());
  Frozen frozen(armed.pid());
  const ProcessTimers timers = ask(frozen, ImagePid(77));
  ASSERT_EQ(timers.posix.size(), 6u);
  EXPECT_EQ(timers.posix[0].value, 0xdead'beef'0000'0001u);
  EXPECT_EQ(timers.posix[0].signal, SIGUSR1);
  EXPECT_EQ(timers.posix[0].interval, 10 * kSecond + 5);
  expect_counts_on(timers.posix[0].remaining, 1000 * kSecond + 7);
  EXPECT_EQ(timers.posix[1].id, 3);
  EXPECT_EQ(timers.posix[1].thread, ImagePid(77));
  EXPECT_EQ(timers.posix[1].notify, SIGEV_SIGNAL | SIGEV_THREAD_ID);
  EXPECT_EQ(timers.posix[2].notify, SIGEV_NONE);
  EXPECT_EQ(timers.posix[3].id, 6);
  EXPECT_EQ(timers.posix[3].clock, kOwnProcessCpu);
  EXPECT_EQ(timers.posix[5].remaining, 0u);
  EXPECT_GT(timers.real.remaining, 3'000'000'000u);
  EXPECT_EQ(timers.prof.interval, 80'000'003u);
}

TEST(ProcessTimers, AreRestoredInAFreshProcessWithTheirIds) {
  for (const TimerIds ids : {TimerIds::kRestore, TimerIds::kCount}) {
    if (ids == TimerIds::kRestore && probe_timer_ids() != TimerIds::kRestore) continue;
    Child armed(set_many_timers);
    Child fresh;
    ASSERT_TRUE(armed.ready() && fresh.ready());
    Frozen frozen_armed(armed.pid());
    Frozen frozen_fresh(fresh.pid());
    const ImagePid thread(fresh.pid().value());
    const ProcessTimers wanted = ask(frozen_armed, thread);
    const auto done = restore(frozen_fresh, wanted, ids);
    ASSERT_TRUE(done) << done.error().to_string();
    expect_same(ask(frozen_fresh, thread), wanted);
  }
}

TEST(ProcessTimers, ANewTimerAfterTheRestartGetsAnIdOfItsOwn) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  ProcessTimers wanted;
  wanted.posix = {{.id = 5, .clock = CLOCK_MONOTONIC, .signal = SIGUSR1}};
  ASSERT_TRUE(restore(frozen, wanted, probe_timer_ids()));
  Batch batch = frozen.batch();
  const auto id = batch.array<std::int32_t>(1);
  const auto created = batch.call(SYS_timer_create, CLOCK_MONOTONIC, 0, id);
  frozen.run(batch);
  EXPECT_EQ(batch.result(created), 0);
  EXPECT_NE(*id, 5);
}

TEST(ProcessTimers, AHighIdNeedsAKernelThatCanGiveIt) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  ProcessTimers wanted;
  wanted.posix = {{.id = 1'000'000, .clock = CLOCK_MONOTONIC, .signal = SIGUSR1}};
  EXPECT_EQ(restore(frozen, wanted, TimerIds::kCount).error().code(), Errc::kKernelFeature);
  if (probe_timer_ids() != TimerIds::kRestore) GTEST_SKIP() << "this kernel can't";
  EXPECT_TRUE(restore(frozen, wanted, TimerIds::kRestore));
  expect_same(ask(frozen, ImagePid()), wanted);
}

TEST(ProcessTimers, AsManyAsAreSavedFitOneBatch) {
  Child many([] {
    for (std::size_t i = 0; i < kMaxPosixTimers; ++i) {
      if (!add_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, i, 1000, 0)) return false;
    }
    return true;
  });
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  if (!many.ready()) GTEST_SKIP() << "the limit of pending signals is too low";
  Frozen frozen_many(many.pid());
  Frozen frozen_fresh(fresh.pid());
  const ProcessTimers wanted = ask(frozen_many, ImagePid());
  const auto done = restore(frozen_fresh, wanted, TimerIds::kCount);
  ASSERT_TRUE(done) << done.error().to_string();
  expect_same(ask(frozen_fresh, ImagePid()), wanted);
}

TEST(ProcessTimers, ATimerForAThreadThatIsGoneSignalsNobody) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  ProcessTimers wanted;
  wanted.posix = {{.id = 1,
                   .clock = CLOCK_MONOTONIC,
                   .signal = SIGKILL,
                   .notify = SIGEV_SIGNAL | SIGEV_THREAD_ID,
                   .remaining = 1000 * kSecond}};
  ASSERT_TRUE(restore(frozen, wanted, TimerIds::kCount));
  EXPECT_EQ(ask(frozen, ImagePid()).posix.at(0).notify, SIGEV_NONE);
}

TEST(ProcessTimers, NonsenseFromAnImageIsRefusedBeforeAnythingIsCalled) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  const PosixTimerState good{.id = 3, .clock = CLOCK_MONOTONIC, .signal = SIGUSR1};
  for (auto change : {+[](PosixTimerState& t) { t.id = -1; }, +[](PosixTimerState& t) { t.signal = 65; },
                      +[](PosixTimerState& t) { t.notify = 99; }, +[](PosixTimerState& t) { t.id = 2; }}) {
    ProcessTimers wanted;
    wanted.posix = {{.id = 2, .clock = CLOCK_MONOTONIC, .signal = SIGUSR1}, good};
    change(wanted.posix[1]);
    EXPECT_EQ(restore(frozen, wanted, TimerIds::kCount).error().code(), Errc::kBadImage);
  }
  EXPECT_TRUE(frozen.proc().timers()->empty());
}

TEST(ProcessTimers, AClockThatNeedsACapabilityIsNamed) {
  Child weak([] {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct none[2]{};
    return ::syscall(SYS_capset, &header, none) == 0;
  });
  ASSERT_TRUE(weak.ready());
  Frozen frozen(weak.pid());
  ProcessTimers wanted;
  wanted.posix = {{.id = 0, .clock = CLOCK_BOOTTIME_ALARM, .signal = SIGUSR1}};
  const auto refused = restore(frozen, wanted, TimerIds::kCount);
  ASSERT_FALSE(refused);
  if (refused.error().sys_errno() != EPERM) GTEST_SKIP() << "no alarm clocks here: " << refused.error().to_string();
  EXPECT_EQ(refused.error().code(), Errc::kMissingCapability);
}

TEST(ProcessTimers, SurviveTheImage) {
  const ProcessTimers timers{
      .real = {1, 2},
      .virt = {3, 4},
      .prof = {5, 6},
      .posix = {{.id = 1, .clock = -6, .signal = 2, .notify = 4, .thread = ImagePid(9), .value = 8, .remaining = 7}}};
  std::vector<std::byte> bytes;
  ASSERT_TRUE(encode(timers, bytes));
  EXPECT_EQ(*decode<ProcessTimers>(bytes, "timers"), timers);
}

TEST(TimerObstacles, AreTheTimersWhoseClockCanNotBeNamed) {
  auto timer = [](std::int32_t clock) { return kernel::PosixTimer{.id = 1, .clock_id = clock}; };
  const std::vector<ImagePid> one{ImagePid(10)};
  const std::vector<ImagePid> two{ImagePid(10), ImagePid(11)};
  const std::int32_t of_process_10 = ~10 << 3 | 2;
  const std::int32_t of_process_12 = ~12 << 3 | 2;
  const std::int32_t device = ~5 << 3 | 3;
  auto count = [&](std::int32_t clock, const std::vector<ImagePid>& tids) {
    return find_timer_obstacles(HostPid(1), {timer(clock)}, tids).size();
  };
  for (const std::int32_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_PROCESS_CPUTIME_ID,
                                   kOwnProcessCpu, of_process_10})
    EXPECT_EQ(count(clock, two), 0u) << clock;
  EXPECT_EQ(count(kOwnThreadCpu, one), 0u);
  EXPECT_EQ(count(kOwnThreadCpu, two), 1u);
  EXPECT_EQ(count(CLOCK_THREAD_CPUTIME_ID, two), 1u);
  EXPECT_EQ(count(of_process_12, two), 1u);
  EXPECT_EQ(count(device, one), 1u);
  const std::vector<kernel::PosixTimer> many(kMaxPosixTimers + 1, timer(CLOCK_MONOTONIC));
  EXPECT_EQ(find_timer_obstacles(HostPid(1), many, one).size(), 1u);
}

}  // namespace
}  // namespace stasis
