// SPDX-License-Identifier: Apache-2.0
// WorkQueue beyond the table of contract_test.cc and the list of mistakes_test.cc.
#include "stasis/work_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <future>
#include <latch>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "stasis/worker.h"
#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::await;
using test::Gate;
using test::ProbeWork;

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

std::unique_ptr<WorkQueue> make_queue(const WorkQueueOptions& options = {}) {
  return std::move(WorkQueue::create(options).value());
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  EXPECT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::string name_of(const testing::TestParamInfo<QueueKind>& param) {
  switch (param.param) {
    case QueueKind::kPerCpu:
      return "PerCpu";
    case QueueKind::kUnbound:
      return "Unbound";
    case QueueKind::kOrdered:
      return "Ordered";
  }
  return "";
}

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
