// SPDX-License-Identifier: Apache-2.0
// WorkQueue beyond the table of contract_test.cc and the list of mistakes_test.cc. Who runs beside whom:
// work_queue_concurrency_test.cc.
#include "stasis/work_queue.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <future>
#include <thread>

#include "stasis/worker.h"
#include "work/queue_test_support.h"
#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::await;
using test::kThreadSanitizer;
using test::make_queue;
using test::name_of;
using test::ProbeWork;

class AnyQueue : public testing::TestWithParam<QueueKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, AnyQueue, testing::Values(QueueKind::kPerCpu, QueueKind::kUnbound, QueueKind::kOrdered),
                         name_of);

TEST_P(AnyQueue, RunsEverythingThatIsPosted) {
  const auto queue = make_queue({.kind = GetParam()});
  std::atomic<int> runs{0};
  std::array<std::thread, 4> producers;
  for (std::thread& producer : producers) {
    producer = std::thread([&] {
      for (int i = 0; i < 3000; ++i) EXPECT_TRUE(queue->post([&] { ++runs; }));
    });
  }
  for (std::thread& producer : producers) producer.join();
  (void)queue->flush();
  EXPECT_EQ(runs, 12000);
}

TEST_P(AnyQueue, TimersFollowTheClock) {
  ManualClock clock;
  const auto queue = make_queue({.kind = GetParam(), .clock = &clock});
  ProbeWork work;
  ASSERT_TRUE(queue->queue_delayed(work, 10ms));
  EXPECT_FALSE(queue->queue_delayed(work, 1ms));
  clock.advance(10ms - 1ns);
  (void)queue->flush();
  EXPECT_EQ(work.starts, 0);
  clock.advance(1ns);
  work.await_starts(1);  // without a flush: somebody sleeps on the clock
  (void)queue->flush();
  std::atomic<bool> posted{false};
  ASSERT_TRUE(queue->post_after(1ms, [&] { posted = true; }));
  clock.advance(1ms);
  (void)queue->flush();
  EXPECT_TRUE(posted);
}

TEST_P(AnyQueue, AWorkThatFreesItselfIsNotTouchedAgain) {
  struct Selfless : DelayedWork {
    explicit Selfless(std::atomic<int>& its_runs) : DelayedWork(method<&Selfless::run>), runs(its_runs) {}
    void run() {
      ++runs;
      delete this;
    }
    std::atomic<int>& runs;
  };
  const auto queue = make_queue({.kind = GetParam()});
  std::atomic<int> runs{0};
  for (int i = 0; i < 300; ++i) {
    auto* const work = new Selfless(runs);
    EXPECT_TRUE(i % 3 == 0 ? queue->queue_delayed(*work, 10us) : queue->queue(*work));
  }
  await([&] { return runs == 300; });
}

TEST_P(AnyQueue, WhileItDrainsOnlyItsOwnWorksMayQueue) {
  ManualClock clock;
  const auto queue = make_queue({.kind = GetParam(), .clock = &clock});
  ProbeWork chained;
  ProbeWork due;
  ProbeWork work([&](ProbeWork&) { EXPECT_TRUE(queue->queue(chained)); });
  work.held = true;
  ASSERT_TRUE(queue->queue_delayed(due, 10ms));
  ASSERT_TRUE(queue->queue(work));
  work.await_starts(1);
  auto drainer = std::async(std::launch::async, [&] { return static_cast<bool>(queue->drain()); });
  ProbeWork outsider;
  await([&] {
    (void)queue->cancel_sync(outsider);
    return queue->queue(outsider).reason() == Errc::kDraining;
  });
  EXPECT_FALSE(outsider.pending()) << "the kernel leaves it pending for ever";
  EXPECT_FALSE(queue->cancel_sync(outsider));
  clock.advance(10ms);  // an armed work was accepted before
  work.leave.open();
  EXPECT_TRUE(drainer.get());
  EXPECT_EQ(chained.runs, 1);
  (void)queue->flush();
  EXPECT_EQ(due.runs, 1);
  EXPECT_TRUE(queue->queue(outsider));
}

TEST_P(AnyQueue, DrainsNest) {
  const auto queue = make_queue({.kind = GetParam(), .max_active = 2});
  ProbeWork held;
  ProbeWork outsider;
  held.held = true;
  ASSERT_TRUE(queue->queue(held));
  held.await_starts(1);
  auto one = std::async(std::launch::async, [&] { return queue->drain(); });
  auto other = std::async(std::launch::async, [&] { return queue->drain(); });
  await([&] { return queue->post([] {}).reason() == Errc::kDraining; }, "a drain");
  EXPECT_EQ(queue->queue(outsider).reason(), Errc::kDraining);
  EXPECT_FALSE(outsider.pending());
  held.leave.open();
  EXPECT_FALSE(one.get().refused());
  EXPECT_FALSE(other.get().refused());
  EXPECT_TRUE(queue->queue(outsider));  // both are over
  (void)queue->flush_work(outsider);
  EXPECT_EQ(outsider.runs, 1);
}

TEST_P(AnyQueue, FlushWaitsNeitherForTimersNorForWhatIsQueuedLater) {
  ManualClock clock;
  const auto queue = make_queue({.kind = GetParam(), .clock = &clock});
  ProbeWork armed;
  ASSERT_TRUE(queue->queue_delayed(armed, 1h));
  ProbeWork again([&](ProbeWork& self) { (void)queue->queue(self); });  // there is always one more
  ASSERT_TRUE(queue->queue(again));
  EXPECT_FALSE(queue->flush().refused());
  EXPECT_GE(again.runs, 1);
  EXPECT_EQ(armed.starts, 0);
  EXPECT_TRUE(queue->cancel(armed));
  (void)queue->cancel_sync(again);
}

TEST_P(AnyQueue, DestroyRunsWhatIsQueuedAndChained) {
  const auto queue = make_queue({.kind = GetParam()});
  std::atomic<int> runs{0};
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(queue->post([&] {
      ++runs;
      EXPECT_TRUE(queue->post([&] { ++runs; }));
    }));
  }
  EXPECT_EQ(queue->destroy().value(), 0U);
  EXPECT_EQ(runs, 200);
  EXPECT_EQ(queue->post([] {}).reason(), Errc::kStopped);
}

TEST_P(AnyQueue, AnUnusedQueueIsDestroyedAtOnce) { EXPECT_EQ(make_queue({.kind = GetParam()})->destroy().value(), 0U); }

TEST_P(AnyQueue, KnowsItsOwnThreads) {
  const auto queue = make_queue({.kind = GetParam()});
  bool inside = false;
  ASSERT_TRUE(queue->post([&] { inside = queue->is_current(); }));
  (void)queue->flush();
  EXPECT_TRUE(inside);
  EXPECT_FALSE(queue->is_current());
}

TEST_P(AnyQueue, HighPriorityIsRaisedOrSaysSo) {
  const auto queue = make_queue({.kind = GetParam(), .priority = QueuePriority::kHigh});
  int nice = 0;
  ASSERT_TRUE(queue->post([&] { nice = ::getpriority(PRIO_PROCESS, 0); }));
  (void)queue->flush();
  EXPECT_EQ(nice == -20, queue->raised_priority());
}

// ---- ordered

TEST(OrderedQueue, RunsOneAfterTheOtherInOrder) {
  const auto queue = make_queue({.kind = QueueKind::kOrdered});
  std::vector<int> order;  // unsynchronised on purpose: the thread sanitizer watches
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(queue->post([&order, i] { order.push_back(i); }));
  (void)queue->flush();
  ASSERT_EQ(order.size(), 2000U);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(OrderedQueue, WaitingForAQueuedWorkInAWorkIsReported) {
  const auto queue = make_queue({.kind = QueueKind::kOrdered});
  ProbeWork later;
  Outcome heard(false);
  ProbeWork work([&](ProbeWork&) {
    ASSERT_TRUE(queue->queue(later));
    heard = queue->flush_work(later);
  });
  ASSERT_TRUE(queue->queue(work));
  (void)queue->flush();
  EXPECT_EQ(heard.reason(), Errc::kWouldDeadlock);
  (void)queue->drain();
  EXPECT_EQ(later.runs, 1);
}

// ---- the process-wide queue

TEST(SystemQueue, IsOneAndRunsWorks) {
  EXPECT_EQ(&system_queue(), &system_queue());
  ProbeWork work;
  EXPECT_TRUE(system_queue().queue(work));
  (void)system_queue().flush_work(work);
  EXPECT_EQ(work.runs, 1);
  EXPECT_TRUE(work.reset());
}

TEST(SystemQueue, AForkedChildGetsItsOwnAndExits) {
  WorkQueue* const mine = &system_queue();
  ProbeWork used;
  ASSERT_TRUE(mine->queue(used));
  (void)mine->flush_work(used);
  std::fflush(nullptr);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    bool fine = mine->flush().reason() == Errc::kStopped && &system_queue() != mine;
    // The thread sanitizer's run time does not support threads in the child of a threaded process.
    if (!kThreadSanitizer) {
      ProbeWork work;
      fine = fine && system_queue().queue(work) && system_queue().flush_work(work).reason() == Errc{} && work.runs == 1;
    }
    if (!fine) ::_exit(1);
    std::exit(0);  // with all destructors: must not wait for threads that are not there
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(WorkQueue, AWorkOfAnotherQueueIsRefusedUntilReset) {
  const auto one = make_queue();
  const auto other = make_queue();
  ProbeWork work;
  ASSERT_TRUE(one->queue(work));
  (void)one->flush();
  EXPECT_EQ(other->queue(work).reason(), Errc::kWrongWorker);
  EXPECT_TRUE(work.reset());
  EXPECT_TRUE(other->queue(work));
  (void)other->flush();
  EXPECT_EQ(work.runs, 2);
}

TEST(WorkQueue, AWorkOfAQueueMayWaitForAWorker) {
  const auto queue = make_queue();
  const auto worker = std::move(Worker::create().value());
  ProbeWork inner;
  ProbeWork outer([&](ProbeWork&) {
    ASSERT_TRUE(worker->queue(inner));
    (void)worker->flush_work(inner);
  });
  ASSERT_TRUE(queue->queue(outer));
  (void)queue->flush();
  EXPECT_EQ(inner.runs, 1);
}

}  // namespace
}  // namespace stasis
