// SPDX-License-Identifier: Apache-2.0
// WorkQueue: works that block let others go on, limits, and CPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <future>
#include <latch>
#include <list>
#include <mutex>
#include <set>
#include <thread>

#include "stasis/work_queue.h"
#include "work/queue_test_support.h"
#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::allowed_cpus;
using test::await;
using test::make_queue;
using test::name_of;
using test::ProbeWork;

// ---- blocking works let others go on

class ConcurrentQueue : public testing::TestWithParam<QueueKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ConcurrentQueue, testing::Values(QueueKind::kPerCpu, QueueKind::kUnbound), name_of);

TEST_P(ConcurrentQueue, AWorkThatSleepsLetsTheNextStart) {
  const auto queue = make_queue({.kind = GetParam()});
  const int cpu = allowed_cpus().front();
  ProbeWork second;
  ProbeWork first([&](ProbeWork&) { second.await_starts(1); });  // only the next one can end it
  ASSERT_TRUE(queue->queue_on(cpu, first));
  first.await_starts(1);
  ASSERT_TRUE(queue->queue_on(cpu, second));
  (void)queue->flush();
  EXPECT_EQ(first.runs + second.runs, 2);
}

TEST_P(ConcurrentQueue, ATimerFiresWhileAnotherWorkBlocks) {
  ManualClock clock;
  const auto queue = make_queue({.kind = GetParam(), .clock = &clock});
  ProbeWork timer;
  ProbeWork blocker([&](ProbeWork&) { timer.await_starts(1); });
  ASSERT_TRUE(queue->queue_delayed(timer, 10ms));
  ASSERT_TRUE(queue->queue(blocker));
  blocker.await_starts(1);
  clock.advance(10ms);
  (void)queue->flush();
  EXPECT_EQ(timer.runs, 1);
}

TEST_P(ConcurrentQueue, ScopedBlockingLetsTheNextStart) {
  const auto queue = make_queue({.kind = GetParam()});
  const int cpu = allowed_cpus().front();
  for (int i = 0; i < 50; ++i) {
    ProbeWork second;
    ProbeWork first([&](ProbeWork&) {
      const ScopedBlocking blocking;
      const ScopedBlocking nested;
      second.await_starts(1);
    });
    ASSERT_TRUE(queue->queue_on(cpu, first));
    ASSERT_TRUE(queue->queue_on(cpu, second));
    (void)queue->flush();
  }
}

TEST_P(ConcurrentQueue, AWorkMayFlushAnotherOfTheSameQueue) {
  const auto queue = make_queue({.kind = GetParam()});
  for (int i = 0; i < 50; ++i) {
    ProbeWork second;
    ProbeWork first([&](ProbeWork&) {
      ASSERT_TRUE(queue->queue(second));
      EXPECT_FALSE(queue->flush_work(second).refused());
      EXPECT_EQ(second.runs, 1);
    });
    ASSERT_TRUE(queue->queue(first));
    (void)queue->flush();
    EXPECT_EQ(first.runs, 1);
  }
}

TEST_P(ConcurrentQueue, MaxActiveWorksCanAllBlockAtOnce) {
  constexpr int kWorks = 24;
  const auto queue = make_queue({.kind = GetParam(), .max_active = kWorks});
  const int cpu = allowed_cpus().front();
  std::latch all(kWorks);
  std::list<ProbeWork> works;
  for (int i = 0; i < kWorks; ++i) {
    works.emplace_back([&](ProbeWork&) { all.arrive_and_wait(); });
    ASSERT_TRUE(queue->queue_on(cpu, works.back()));
  }
  (void)queue->flush();
  for (const ProbeWork& work : works) EXPECT_EQ(work.runs, 1);
}

TEST_P(ConcurrentQueue, MaxActiveIsNotExceeded) {
  constexpr int kActive = 3;
  const auto queue = make_queue({.kind = GetParam(), .max_active = kActive});
  const int cpu = allowed_cpus().front();
  std::atomic<int> active{0};
  std::atomic<int> most{0};
  std::atomic<int> runs{0};
  for (int i = 0; i < 60; ++i) {
    const auto body = [&] {
      const int now = ++active;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      {
        const ScopedBlocking blocking;
        std::this_thread::yield();
      }
      --active;
      ++runs;
    };
    auto* const work = new detail::OneShot<Work, decltype(body)>(body);
    ASSERT_TRUE(queue->queue_on(cpu, *work));
  }
  (void)queue->flush();
  EXPECT_EQ(runs, 60);
  EXPECT_LE(most, kActive);
}

TEST_P(ConcurrentQueue, HeldWorksAtTheLimitKeepTheNextQueued) {
  const auto queue = make_queue({.kind = GetParam(), .max_active = 2});
  const int cpu = allowed_cpus().front();
  std::array<ProbeWork, 2> held;
  ProbeWork next;
  for (ProbeWork& work : held) {
    work.held = true;
    ASSERT_TRUE(queue->queue_on(cpu, work));
  }
  for (ProbeWork& work : held) work.await_starts(1);
  ASSERT_TRUE(queue->queue_on(cpu, next));
  EXPECT_TRUE(queue->state(next).queued);
  EXPECT_EQ(next.starts, 0);
  EXPECT_TRUE(queue->cancel(next));
  ASSERT_TRUE(queue->queue_on(cpu, next));
  held[1].leave.open();
  next.await_starts(1);
  held[0].leave.open();
  (void)queue->flush();
}

TEST_P(ConcurrentQueue, AWorkNeverRunsTwiceAtOnce) {
  const auto queue = make_queue({.kind = GetParam(), .max_active = 8});
  const std::vector<int> cpus = allowed_cpus();
  ProbeWork work;
  ProbeWork other;
  work.held = true;
  ASSERT_TRUE(queue->queue_on(cpus.front(), work));
  work.await_starts(1);
  ASSERT_TRUE(queue->queue_on(cpus.back(), work));  // goes where it runs
  ASSERT_TRUE(queue->queue_on(cpus.front(), other));
  other.await_starts(1);  // queued behind, and started: so the first was passed over, not run
  EXPECT_EQ(work.starts, 1);
  EXPECT_TRUE(queue->state(work).queued);
  EXPECT_FALSE(queue->queue_on(cpus.back(), work));
  work.leave.open();
  (void)queue->flush();
  EXPECT_EQ(work.runs, 2);
}

TEST_P(ConcurrentQueue, ARunThatWaitsBehindItselfCanBeCancelledMovedAndFlushed) {
  ManualClock clock;
  const auto queue = make_queue({.kind = GetParam(), .max_active = 8, .clock = &clock});
  const int cpu = allowed_cpus().front();
  ProbeWork work;
  ProbeWork other;
  work.held = true;
  ASSERT_TRUE(queue->queue_on(cpu, work));
  work.await_starts(1);
  const auto put_behind = [&] {
    ASSERT_TRUE(queue->queue_on(cpu, work));
    const int before = other.starts;
    ASSERT_TRUE(queue->queue_on(cpu, other));
    other.await_starts(before + 1);
    (void)queue->flush_work(other);
  };
  put_behind();
  EXPECT_TRUE(queue->cancel(work));
  EXPECT_FALSE(queue->state(work).queued);
  put_behind();
  EXPECT_TRUE(queue->mod_delayed(work, 1s));
  EXPECT_TRUE(queue->state(work).armed);
  EXPECT_TRUE(queue->cancel(work));
  put_behind();
  auto flusher = std::async(std::launch::async, [&] { return static_cast<bool>(queue->flush_work(work)); });
  await([&] { return queue->state(work).waiters == 1; });
  work.leave.open();
  EXPECT_TRUE(flusher.get());
  EXPECT_EQ(work.runs, 2);
}

TEST_P(ConcurrentQueue, AWorkQueuedAllOverThePlaceNeverOverlapsWithItself) {
  const auto queue = make_queue({.kind = GetParam(), .max_active = 4});
  const std::vector<int> cpus = allowed_cpus();
  int unsynchronised = 0;
  std::atomic<int> inside{0};
  ProbeWork work([&](ProbeWork&) {
    EXPECT_EQ(++inside, 1);
    ++unsynchronised;
    --inside;
  });
  std::array<std::thread, 3> producers;
  std::atomic<int> accepted{0};
  for (std::thread& producer : producers) {
    producer = std::thread([&] {
      for (std::size_t i = 0; i < 3000; ++i) accepted += queue->queue_on(cpus[i % cpus.size()], work) ? 1 : 0;
    });
  }
  for (std::thread& producer : producers) producer.join();
  (void)queue->flush();
  EXPECT_EQ(unsynchronised, accepted);
  EXPECT_EQ(work.runs, accepted);
}

// ---- CPUs

TEST(PerCpuQueue, RunsOnTheCpuItWasQueuedOn) {
  const auto queue = make_queue();
  for (const int cpu : allowed_cpus()) {
    int ran_on = -1;
    cpu_set_t set;
    ProbeWork work([&](ProbeWork&) {
      ran_on = ::sched_getcpu();
      EXPECT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
    });
    ASSERT_TRUE(queue->queue_on(cpu, work));
    (void)queue->flush_work(work);
    EXPECT_EQ(ran_on, cpu);
    EXPECT_EQ(CPU_COUNT(&set), 1);
  }
}

TEST(PerCpuQueue, ABoundWorkIsNeverStolen) {
  const std::vector<int> cpus = allowed_cpus();
  if (cpus.size() < 2) GTEST_SKIP() << "needs two CPUs";
  const auto queue = make_queue();
  std::mutex mutex;
  std::set<int> ran_on;
  std::list<ProbeWork> works;
  ProbeWork elsewhere;
  for (int i = 0; i < 500; ++i) {
    works.emplace_back([&](ProbeWork&) {
      const std::lock_guard lock(mutex);
      ran_on.insert(::sched_getcpu());
    });
    ASSERT_TRUE(queue->queue_on(cpus[0], works.back()));
    (void)queue->queue_on(cpus[1], elsewhere);  // keeps the other CPU's thread awake
  }
  (void)queue->flush();
  EXPECT_THAT(ran_on, testing::ElementsAre(cpus[0]));
}

TEST(PerCpuQueue, ACpuThatIsNotAllowedIsRefused) {
  const auto queue = make_queue();
  ProbeWork work;
  for (const int cpu : {-1, CPU_SETSIZE - 1, 1 << 30}) {
    EXPECT_EQ(queue->queue_on(cpu, work).reason(), Errc::kInvalidArgument);
    EXPECT_EQ(queue->queue_delayed_on(cpu, work, 1s).reason(), Errc::kInvalidArgument);
    EXPECT_EQ(queue->mod_delayed_on(cpu, work, 1s).reason(), Errc::kInvalidArgument);
  }
  EXPECT_FALSE(work.pending());
}

TEST(PerCpuQueue, AnArmedWorkMovesToTheCpuOfModDelayedOn) {
  const std::vector<int> cpus = allowed_cpus();
  if (cpus.size() < 2) GTEST_SKIP() << "needs two CPUs";
  ManualClock clock;
  const auto queue = make_queue({.clock = &clock});
  int ran_on = -1;
  ProbeWork work([&](ProbeWork&) { ran_on = ::sched_getcpu(); });
  ASSERT_TRUE(queue->queue_delayed_on(cpus[0], work, 1s));
  EXPECT_TRUE(queue->mod_delayed_on(cpus[1], work, 2s));
  clock.advance(1s);
  (void)queue->flush();
  EXPECT_EQ(ran_on, -1);
  clock.advance(1s);
  (void)queue->flush();
  EXPECT_EQ(ran_on, cpus[1]);
}

TEST(UnboundQueue, AnIdleThreadTakesAnotherCpusWork) {
  const std::vector<int> cpus = allowed_cpus();
  if (cpus.size() < 2) GTEST_SKIP() << "needs two CPUs";
  const auto queue = make_queue({.kind = QueueKind::kUnbound, .max_active = 2});
  ProbeWork warm;
  ASSERT_TRUE(queue->queue_on(cpus[1], warm));
  (void)queue->flush();
  ProbeWork held;
  std::atomic<bool> computing{true};
  // Does not sleep, so that nobody takes it for blocked and sends another thread.
  ProbeWork busy([&](ProbeWork&) {
    while (computing) std::this_thread::yield();
  });
  ASSERT_TRUE(queue->queue_on(cpus[0], busy));
  busy.await_starts(1);
  for (int i = 0; i < 20; ++i) {
    ProbeWork work;
    ASSERT_TRUE(queue->queue_on(cpus[0], work));
    (void)queue->flush_work(work);
    EXPECT_EQ(work.runs, 1);
  }
  computing = false;
  (void)queue->flush();
}

TEST(UnboundQueue, WorksThatComputeForLongDoNotKeepOthersWaiting) {
  const auto queue = make_queue({.kind = QueueKind::kUnbound, .max_active = 16});
  std::atomic<bool> computing{true};
  std::list<ProbeWork> hogs;
  for (int i = 0; i < 4; ++i) {
    hogs.emplace_back([&](ProbeWork&) {
      while (computing) std::this_thread::yield();
    });
    ASSERT_TRUE(queue->queue(hogs.back()));
  }
  ProbeWork last([&](ProbeWork&) { computing = false; });
  ASSERT_TRUE(queue->queue(last));
  (void)queue->flush();
  EXPECT_EQ(last.runs, 1);
}

}  // namespace
}  // namespace stasis
