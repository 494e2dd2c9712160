// SPDX-License-Identifier: Apache-2.0
// WorkQueue where no thread can be started.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>

#include <array>
#include <latch>
#include <thread>

#include "stasis/work_queue.h"
#include "work/queue_test_support.h"
#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::allowed_cpus;
using test::await;
using test::Gate;
using test::make_queue;
using test::name_of;
using test::ProbeWork;

class WithoutThreads : public testing::TestWithParam<QueueKind> {};

TEST_P(WithoutThreads, WhoWaitsRunsTheWorks) {
  const auto queue = make_queue({.kind = GetParam()});
  std::array<ProbeWork, 3> works;
  ProbeWork more;
  {
    const test::NoThreads none;
    for (ProbeWork& work : works) ASSERT_TRUE(queue->queue(work));
    EXPECT_TRUE(queue->flush());
    for (const ProbeWork& work : works) EXPECT_EQ(work.runs, 1);
    ASSERT_TRUE(queue->queue(works[0]));
    EXPECT_TRUE(queue->flush_work(works[0]));
    EXPECT_EQ(works[0].runs, 2);
    // One that queues another, of which it does not wait for itself.
    works[1].body = [&](ProbeWork& self) {
      EXPECT_EQ(queue->flush_work(self).reason(), Errc::kWouldDeadlock);
      EXPECT_EQ(queue->flush().reason(), Errc::kWouldDeadlock);
      EXPECT_TRUE(queue->queue(more));
    };
    ASSERT_TRUE(queue->queue(works[1]));
    EXPECT_TRUE(queue->drain());
    EXPECT_EQ(more.runs, 1);
    ASSERT_TRUE(queue->queue(works[2]));
    EXPECT_TRUE(queue->cancel_sync(works[2]));
    EXPECT_EQ(works[2].runs, 1);
  }
  for (ProbeWork& work : works) work.body = nullptr;
  // Once there are threads again, they run the works.
  const pthread_t here = ::pthread_self();
  works[0].body = [&](ProbeWork&) { EXPECT_EQ(::pthread_equal(::pthread_self(), here), 0); };
  ASSERT_TRUE(queue->queue(works[0]));
  (void)queue->flush_work(works[0]);
  EXPECT_EQ(works[0].runs, 3);
}

// Two who wait are not two seats, and a work that is queued again meanwhile does not run beside itself: not here, and
// not by a thread that can be started by then.
TEST_P(WithoutThreads, StandInsKeepTheRules) {
  const auto queue =
      make_queue({.kind = GetParam(), .max_active = 1 + static_cast<unsigned>(GetParam() == QueueKind::kUnbound)});
  std::atomic<int> running = 0, most = 0;
  const auto body = [&](ProbeWork&) {
    const int now = ++running;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(1ms);
    --running;
  };
  std::array<ProbeWork, 20> works;
  for (ProbeWork& work : works) work.body = body;
  std::atomic<int> inside = 0;
  ProbeWork again([&](ProbeWork& self) {
    EXPECT_EQ(++inside, 1);
    if (self.runs < 5) {
      EXPECT_TRUE(queue->queue(self));
    }
    std::this_thread::sleep_for(1ms);
    --inside;
  });
  std::latch queued(1);
  std::array<std::thread, 2> waiters;
  for (std::thread& waiter : waiters) {
    waiter = std::thread([&] {
      queued.wait();
      (void)queue->flush();
    });
  }
  {
    const test::NoThreads none;
    cpu_set_t before, one;
    ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(allowed_cpus().front()), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);  // all in one shard
    for (ProbeWork& work : works) ASSERT_TRUE(queue->queue(work));
    ASSERT_TRUE(queue->queue(again));
    ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
    queued.count_down();
    (void)queue->flush_work(works[10]);
  }
  (void)queue->drain();
  for (std::thread& waiter : waiters) waiter.join();
  for (const ProbeWork& work : works) EXPECT_EQ(work.runs, 1);
  EXPECT_EQ(again.runs, 6);
  EXPECT_LE(most, GetParam() == QueueKind::kUnbound ? 2 : 1);
}

// Who cancels waits for one run, and runs nobody else's work.
TEST_P(WithoutThreads, WhoCancelsRunsNothing) {
  const auto queue = make_queue({.kind = GetParam()});
  Gate block, leave, go;
  ProbeWork held([&](ProbeWork&) {
    block.wait();
    const ScopedBlocking blocking;
    leave.wait();
  });
  ProbeWork other;
  ASSERT_TRUE(queue->queue(held));
  held.await_starts(1);
  std::thread canceler([&] {
    go.wait();
    (void)queue->cancel_sync(held);
  });
  {
    const test::NoThreads none;
    block.open();
    ASSERT_TRUE(queue->queue(other));
    go.open();
    await([&] { return queue->state(held).canceling; });
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    EXPECT_EQ(other.runs, 0);
    leave.open();
  }
  canceler.join();
  (void)queue->flush_work(other);
  EXPECT_EQ(other.runs, 1);
}

TEST_P(WithoutThreads, WhatIsLeftIsRunByTheEnd) {
  auto queue = make_queue({.kind = GetParam()});
  int runs = 0;
  const test::NoThreads none;
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(queue->post([&] { ++runs; }));
  EXPECT_TRUE(queue->destroy());
  EXPECT_EQ(runs, 100);
}

INSTANTIATE_TEST_SUITE_P(Kinds, WithoutThreads, testing::Values(QueueKind::kPerCpu, QueueKind::kUnbound), name_of);

TEST(WorkQueue, AnOrderedOneIsNotMadeWithoutAThread) {
  const test::NoThreads none;
  EXPECT_FALSE(WorkQueue::create({.kind = QueueKind::kOrdered}));
}

}  // namespace
}  // namespace stasis
