// SPDX-License-Identifier: Apache-2.0
// What other implementations of works got wrong, each as a test; the numbers are those of doc/deferred-work.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <future>
#include <memory>
#include <new>
#include <random>
#include <thread>

#include "stasis/work_queue.h"
#include "stasis/worker.h"
#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::await;
using test::Gate;
using test::ProbeWork;

std::unique_ptr<Worker> make_worker(Clock* clock = nullptr) {
  return std::move(Worker::create({.clock = clock}).value());
}
std::unique_ptr<WorkQueue> make_queue(const WorkQueueOptions& options) {
  return std::move(WorkQueue::create(options).value());
}

// Counts what must balance: instances added on one side, runs and cancelled instances on the other.
struct Ledger {
  std::atomic<long> added{0};
  std::atomic<long> taken{0};
};

// The canceller marked the work while mod had let go of the lock to stop the timer; its barrier was never reached.
TEST(Mistake, N01_ModAgainstCancelSyncDoesNotHang) {
  const auto worker = make_worker();
  ProbeWork work;
  std::atomic<bool> stop{false};
  std::thread mod([&] {
    std::minstd_rand random(1);
    while (!stop) (void)worker->mod_delayed(work, std::chrono::microseconds(random() % 100));
  });
  for (int i = 0; i < 5000; ++i) (void)worker->cancel_sync(work);
  stop = true;
  mod.join();
  (void)worker->cancel_sync(work);
  EXPECT_FALSE(worker->state(work).pending());
  EXPECT_FALSE(worker->state(work).running);
  EXPECT_TRUE(worker->queue(work));  // it is as good as new
  EXPECT_TRUE(worker->flush_work(work) || work.runs > 0);
}

TEST(Mistake, N02_ReturnValuesCountTheInstances) {
  const auto worker = make_worker();
  Ledger ledger;
  ProbeWork work([&](ProbeWork&) { ++ledger.taken; });
  std::atomic<int> busy{3};
  const auto loop = [&](unsigned seed, auto action) {
    return std::thread([&, seed, action] {
      std::minstd_rand random(seed);
      for (int i = 0; i < 5000; ++i) action(random);
      --busy;
    });
  };
  std::array threads = {
      loop(1,
           [&](auto& random) {
             const Outcome moved = worker->mod_delayed(work, std::chrono::microseconds(random() % 50));
             if (!moved && !moved.refused()) ++ledger.added;
           }),
      loop(2, [&](auto&) { ledger.added += worker->queue(work) ? 1 : 0; }),
      loop(3, [&](auto&) { ledger.taken += worker->cancel_sync(work) ? 1 : 0; }),
  };
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(busy, 0);
  ledger.added += worker->mod_delayed(work, 0us) ? 0 : 1;
  (void)worker->flush_work(work);
  EXPECT_EQ(ledger.added, ledger.taken);
  EXPECT_GT(work.runs, 0);
}

TEST(Mistake, N03_ADueTimerThatIsCancelledDoesNotRun) {
  ManualClock clock;
  const auto worker = make_worker(&clock);
  ProbeWork blocker;
  ProbeWork due;
  ProbeWork expired;
  ProbeWork bystander;
  blocker.held = true;
  ASSERT_TRUE(worker->queue(blocker));
  blocker.await_starts(1);
  ASSERT_TRUE(worker->queue_delayed(expired, 5ms));
  clock.advance(7ms);
  ASSERT_TRUE(worker->queue(bystander));  // moves `expired` from the timers to the queue
  EXPECT_TRUE(worker->state(expired).queued);
  ASSERT_TRUE(worker->queue_delayed(due, 5ms));
  clock.advance(7ms);
  EXPECT_TRUE(worker->state(due).armed);  // nobody has looked at the clock since
  EXPECT_TRUE(worker->cancel(due));
  EXPECT_TRUE(worker->cancel(expired));
  blocker.leave.open();
  (void)worker->flush();
  EXPECT_EQ(due.starts + expired.starts, 0);
  EXPECT_EQ(bystander.runs, 1);
}

TEST(Mistake, N03_CancelAgainstAnExpiringTimerTellsTheTruth) {
  ManualClock clock;
  const auto worker = make_worker(&clock);
  ProbeWork work;
  int runs = 0;
  std::atomic<int> round{0};
  std::atomic<bool> stop{false};
  std::thread time([&] {
    for (int seen = 0; !stop;) {
      if (const int now = round; now != seen) {
        seen = now;
        clock.advance(1ms);
      }
    }
  });
  for (int i = 0; i < 3000; ++i) {
    ASSERT_TRUE(worker->queue_delayed(work, 1ms));
    ++round;
    for (int spin = 0; spin < i % 200; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
    if (!worker->cancel_sync(work)) ++runs;
    ASSERT_EQ(work.starts, runs);
    ASSERT_EQ(work.runs, runs);
  }
  stop = true;
  time.join();
}

TEST(Mistake, N04_NoWindowBetweenTakenAndRunning) {
  const auto worker = make_worker();
  ProbeWork work;
  int runs = 0;
  for (int i = 0; i < 5000; ++i) {
    ASSERT_TRUE(worker->queue(work));
    for (int spin = 0; spin < i % 300; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
    if (!worker->cancel_sync(work)) ++runs;
    ASSERT_EQ(work.starts, runs);  // cancelled: never starts; not cancelled: is over
    ASSERT_EQ(work.runs, runs);
  }
}

TEST(Mistake, N05_AllCancellersOfOneWorkAreWoken) {
  const auto worker = make_worker();
  ProbeWork work;
  work.held = true;
  ASSERT_TRUE(worker->queue(work));
  work.await_starts(1);
  std::array<std::future<bool>, 3> cancellers;
  for (auto& canceller : cancellers) {
    canceller = std::async(std::launch::async, [&] { return static_cast<bool>(worker->cancel_sync(work)); });
  }
  await([&] { return worker->state(work).waiters == 3; }, "three cancellers");
  work.leave.open();
  for (auto& canceller : cancellers) EXPECT_FALSE(canceller.get());
}

// The stack of a thread that has waited is unmapped at once: a late access of the worker's would be a fault.
TEST(Mistake, N06_TheWakeUpIsTheLastAccessToTheWaitersStack) {
  const auto worker = make_worker();
  for (int i = 0; i < 300; ++i) {
    ProbeWork work;
    ASSERT_TRUE(worker->queue(work));
    std::thread([&] { (void)worker->flush_work(work); }).join();
    std::thread([&] { (void)worker->flush(); }).join();
    EXPECT_EQ(work.runs, 1);
  }
}

TEST(Mistake, N07_CancelDelayedSyncReturnsWhetherItWasPending) {
  ManualClock clock;
  const auto worker = make_worker(&clock);
  ProbeWork work;
  ProbeWork blocker;
  EXPECT_FALSE(worker->cancel_sync(work)) << "idle";
  ASSERT_TRUE(worker->queue_delayed(work, 1s));
  EXPECT_TRUE(worker->cancel_sync(work)) << "armed";
  blocker.held = true;
  ASSERT_TRUE(worker->queue(blocker));
  blocker.await_starts(1);
  ASSERT_TRUE(worker->queue_delayed(work, 0s));
  EXPECT_TRUE(worker->cancel_sync(work)) << "queued";
  auto canceller = std::async(std::launch::async, [&] { return static_cast<bool>(worker->cancel_sync(blocker)); });
  await([&] { return worker->state(blocker).canceling; });
  blocker.leave.open();
  EXPECT_FALSE(canceller.get()) << "running";
}

class MistakeOnPools : public testing::TestWithParam<QueueKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, MistakeOnPools, testing::Values(QueueKind::kPerCpu, QueueKind::kUnbound),
                         [](const auto& param) { return param.param == QueueKind::kPerCpu ? "PerCpu" : "Unbound"; });

// It queues itself again on whichever CPU it is; cancel_sync must get all of it, and the memory is free to go.
TEST_P(MistakeOnPools, N08_CancelSyncOfAWorkThatQueuesItselfEndsIt) {
  const auto queue = make_queue({.kind = GetParam(), .max_active = 4});
  for (int i = 0; i < 300; ++i) {
    auto work = std::make_unique<ProbeWork>([&](ProbeWork& self) { (void)queue->queue(self); });
    ASSERT_TRUE(queue->queue(*work));
    if (i % 2 == 0) work->await_starts(1 + i % 3);
    (void)queue->cancel_sync(*work);
    const WorkState state = queue->state(*work);
    ASSERT_FALSE(state.pending() || state.running);
    ASSERT_EQ(work->starts, work->runs);
  }
}

TEST(Mistake, N09_StopLeavesNoWaiterBehind) {
  const auto worker = make_worker();
  ProbeWork running;
  ProbeWork queued;
  running.held = true;
  ASSERT_TRUE(worker->queue(running));
  running.await_starts(1);
  ASSERT_TRUE(worker->queue(queued));
  auto canceller = std::async(std::launch::async, [&] { return static_cast<bool>(worker->cancel_sync(running)); });
  auto flusher = std::async(std::launch::async, [&] { return static_cast<bool>(worker->flush_work(queued)); });
  await([&] { return worker->state(running).waiters == 1 && worker->state(queued).waiters == 1; });
  auto stopper = std::async(std::launch::async, [&] { return worker->stop().value(); });
  ProbeWork refused;
  await([&] { return worker->queue(refused).reason() == Errc::kStopped; }, "refusal");
  running.leave.open();
  EXPECT_FALSE(canceller.get());
  EXPECT_TRUE(flusher.get());
  EXPECT_EQ(stopper.get(), 0U);
  EXPECT_EQ(queued.runs, 1);
  EXPECT_FALSE(worker->flush());  // after the end nothing hangs either
  EXPECT_FALSE(worker->cancel_sync(queued));
}

TEST(Mistake, N09_QueueingAgainstStopRunsOrRefuses) {
  for (int i = 0; i < 50; ++i) {
    const auto worker = make_worker();
    std::array<ProbeWork, 64> works;
    std::atomic<int> accepted{0};
    std::thread producer([&] {
      for (ProbeWork& work : works) accepted += worker->queue(work) ? 1 : 0;
    });
    (void)worker->stop();
    producer.join();
    int runs = 0;
    for (const ProbeWork& work : works) {
      runs += work.runs;
      EXPECT_FALSE(work.pending());
    }
    EXPECT_EQ(runs, accepted);
  }
}

// "If it is pending, move it" can't be told from "arm it" by the time it is done: only disabling keeps it away.
TEST(Mistake, N10_DisableEndsAWorkThatOthersKeepMoving) {
  const auto worker = make_worker();
  auto work = std::make_unique<ProbeWork>();
  std::atomic<bool> stop{false};
  std::thread mover([&] {
    while (!stop) {
      (void)worker->queue(*work);
      if (work->pending()) (void)worker->mod_delayed(*work, 0us);
    }
  });
  work->await_starts(10);
  (void)worker->disable_sync(*work);
  const int runs = work->runs;
  for (int i = 0; i < 1000; ++i) {
    const WorkState state = worker->state(*work);
    ASSERT_FALSE(state.pending() || state.running);
    std::this_thread::yield();
  }
  EXPECT_EQ(work->starts, runs);
  stop = true;
  mover.join();
  EXPECT_TRUE(worker->enable(*work));
  EXPECT_TRUE(worker->queue(*work));
  (void)worker->flush_work(*work);
  EXPECT_EQ(work->runs, runs + 1);
}

TEST(Mistake, N11_FlushOfAWorkThatQueuesItselfReturns) {
  const auto worker = make_worker();
  ProbeWork work([&](ProbeWork& self) { (void)worker->queue(self); });
  ASSERT_TRUE(worker->queue(work));
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(worker->flush_work(work));
  EXPECT_TRUE(worker->flush());
  (void)worker->cancel_sync(work);
  EXPECT_GE(work.runs, 100);
}

TEST(Mistake, N11_DrainWaitsForAWorkThatQueuesItself) {
  const auto worker = make_worker();
  ProbeWork work([&](ProbeWork& self) {
    if (self.starts < 500) {
      EXPECT_TRUE(worker->queue(self));
    }
  });
  ASSERT_TRUE(worker->queue(work));
  (void)worker->drain();
  EXPECT_EQ(work.runs, 500);
}

// Destroys itself in its function, which then goes on for a while.
struct SelfDestroyer : Work {
  explicit SelfDestroyer(Gate& its_destroyed, Gate& its_leave)
      : Work(method<&SelfDestroyer::run>), destroyed(its_destroyed), leave(its_leave) {}
  void run() {
    Gate& gone = destroyed;
    const Gate& end = leave;
    this->~SelfDestroyer();
    gone.open();
    end.wait();
  }
  Gate& destroyed;
  Gate& leave;
};

TEST(Mistake, N12_AWorkAtTheAddressOfAFreedOneDoesNotWaitForItsRun) {
  const auto queue = make_queue({.kind = QueueKind::kUnbound, .max_active = 2});
  constexpr std::size_t kSize = std::max(sizeof(SelfDestroyer), sizeof(ProbeWork));
  alignas(64) std::array<std::byte, kSize> storage;
  Gate destroyed;
  Gate leave;
  auto* const first = new (storage.data()) SelfDestroyer(destroyed, leave);
  ASSERT_TRUE(queue->queue(*first));
  destroyed.wait();
  auto* const second = new (storage.data()) ProbeWork;
  EXPECT_FALSE(queue->state(*second).running);
  EXPECT_FALSE(queue->flush_work(*second));
  EXPECT_FALSE(queue->cancel_sync(*second));
  ASSERT_TRUE(queue->queue(*second));
  (void)queue->flush_work(*second);  // while the first one's function goes on
  EXPECT_EQ(second->runs, 1);
  EXPECT_FALSE(leave.is_open());
  second->~ProbeWork();
  leave.open();
  (void)queue->flush();
}

TEST(Mistake, N13_FalseOrdersMemoryAsTrueDoes) {
  const auto worker = make_worker();
  // Relaxed, so that only queue() orders them.
  std::atomic<int> written{0};
  std::atomic<int> seen{0};
  ProbeWork work([&](ProbeWork&) { seen.store(written.load(std::memory_order_relaxed), std::memory_order_relaxed); });
  const char* const given = std::getenv("STASIS_LITMUS_ROUNDS");
  const int rounds = given ? std::atoi(given) : 100'000;
  ASSERT_GT(rounds, 0);
  const int check_every = std::max(8, rounds / 12'500);  // each waits for the worker's thread to wake
  int falses = 0;
  for (int i = 1; i <= rounds; ++i) {
    written.store(i, std::memory_order_relaxed);
    falses += worker->queue(work) ? 0 : 1;
    if (i % check_every == 0) {
      (void)worker->flush_work(work);
      ASSERT_EQ(seen.load(std::memory_order_relaxed), i);
    }
  }
  EXPECT_GT(falses, 0);
}

// What a work hears when it waits for itself.
struct SelfWaits {
  Outcome cancel_sync{false}, disable_sync{false}, flush_work{false}, flush{false}, drain{false};
  Errc end{};
};

void expect_all_refused(const SelfWaits& heard) {
  EXPECT_EQ(heard.cancel_sync.reason(), Errc::kWouldDeadlock);
  EXPECT_EQ(heard.disable_sync.reason(), Errc::kWouldDeadlock);
  EXPECT_EQ(heard.flush_work.reason(), Errc::kWouldDeadlock);
  EXPECT_EQ(heard.flush.reason(), Errc::kWouldDeadlock);
  EXPECT_EQ(heard.drain.reason(), Errc::kWouldDeadlock);
  EXPECT_EQ(heard.end, Errc::kWouldDeadlock);
}

TEST(Mistake, N14_WaitingForItselfIsReportedOnAWorker) {
  const auto worker = make_worker();
  SelfWaits heard;
  ProbeWork work([&](ProbeWork& self) {
    heard = {worker->cancel_sync(self), worker->disable_sync(self),   worker->flush_work(self), worker->flush(),
             worker->drain(),           worker->stop().error().code()};
  });
  ASSERT_TRUE(worker->queue(work));
  (void)worker->flush();
  expect_all_refused(heard);
  EXPECT_TRUE(worker->queue(work));  // neither disabled nor stopped
}

TEST(Mistake, N14_WaitingForItselfIsReportedOnEveryQueue) {
  for (const QueueKind kind : {QueueKind::kPerCpu, QueueKind::kUnbound, QueueKind::kOrdered}) {
    const auto queue = make_queue({.kind = kind});
    SelfWaits heard;
    ProbeWork work([&](ProbeWork& self) {
      heard = {queue->cancel_sync(self), queue->disable_sync(self),      queue->flush_work(self), queue->flush(),
               queue->drain(),           queue->destroy().error().code()};
    });
    ASSERT_TRUE(queue->queue(work));
    (void)queue->flush();
    expect_all_refused(heard);
    EXPECT_TRUE(queue->queue(work));
  }
}

TEST(Mistake, N14_WaitingForWhatCanOnlyStartAfterwardsIsReported) {
  const auto worker = make_worker();
  ProbeWork later;
  Outcome flushed(false);
  Outcome cancelled(false);
  ProbeWork work([&](ProbeWork&) {
    ASSERT_TRUE(worker->queue(later));
    flushed = worker->flush_work(later);
    cancelled = worker->cancel_sync(later);  // needs no waiting
  });
  ASSERT_TRUE(worker->queue(work));
  (void)worker->flush();
  EXPECT_EQ(flushed.reason(), Errc::kWouldDeadlock);
  EXPECT_TRUE(cancelled);
  EXPECT_EQ(later.starts, 0);
}

TEST(Mistake, N15_AWorkQueuedOnASecondWorkerIsRefusedAndUnharmed) {
  const auto first = make_worker();
  const auto second = make_worker();
  ProbeWork work;
  work.held = true;
  ASSERT_TRUE(first->queue(work));
  work.await_starts(1);
  EXPECT_EQ(second->queue(work).reason(), Errc::kWrongWorker);
  EXPECT_EQ(second->queue_delayed(work, 1s).reason(), Errc::kWrongWorker);
  EXPECT_EQ(second->mod_delayed(work, 1s).reason(), Errc::kWrongWorker);
  EXPECT_EQ(second->cancel_sync(work).reason(), Errc::kWrongWorker);
  EXPECT_EQ(second->flush_work(work).reason(), Errc::kWrongWorker);
  EXPECT_EQ(second->disable(work).reason(), Errc::kWrongWorker);
  ASSERT_TRUE(first->queue(work));
  EXPECT_EQ(work.reset().reason(), Errc::kBusy);
  work.leave.open();
  (void)first->flush_work(work);
  EXPECT_EQ(work.runs, 2);
  EXPECT_EQ(second->queue(work).reason(), Errc::kWrongWorker) << "idle, but not its own";
  EXPECT_TRUE(work.reset());
  EXPECT_TRUE(second->queue(work));
  (void)second->flush();
  EXPECT_EQ(work.runs, 3);
}

TEST(Mistake, N16_StopWithArmedTimersDisarmsAndCountsThem) {
  ManualClock clock;
  auto worker = make_worker(&clock);
  std::array<ProbeWork, 3> armed;
  for (ProbeWork& work : armed) ASSERT_TRUE(worker->queue_delayed(work, 1h));
  const auto token = std::make_shared<int>();
  ASSERT_TRUE(worker->post_after(2h, [token] { FAIL(); }));
  EXPECT_EQ(worker->stop().value(), 4U);
  EXPECT_EQ(token.use_count(), 1) << "the callable was destroyed";
  EXPECT_EQ(worker->stop().value(), 0U);
  for (ProbeWork& work : armed) {
    EXPECT_FALSE(work.pending());
    EXPECT_EQ(work.starts, 0);
  }
  const auto other = make_worker(&clock);
  EXPECT_TRUE(armed[0].reset());
  EXPECT_TRUE(other->queue(armed[0]));
  (void)other->flush();
  EXPECT_EQ(armed[0].runs, 1);
}

TEST(Mistake, N16_DestroyOfAQueueWithArmedTimersDisarmsAndCountsThem) {
  ManualClock clock;
  for (const QueueKind kind : {QueueKind::kPerCpu, QueueKind::kUnbound, QueueKind::kOrdered}) {
    const auto queue = make_queue({.kind = kind, .clock = &clock});
    ProbeWork armed;
    ASSERT_TRUE(queue->queue_delayed(armed, 1h));
    EXPECT_EQ(queue->destroy().value(), 1U);
    EXPECT_EQ(queue->destroy().value(), 0U);
    EXPECT_FALSE(armed.pending());
    EXPECT_EQ(queue->queue(armed).reason(), Errc::kStopped);
  }
}

}  // namespace
}  // namespace stasis
