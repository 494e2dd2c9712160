// SPDX-License-Identifier: Apache-2.0
// Worker beyond the table of contract_test.cc and the list of mistakes_test.cc.
#include "stasis/worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <future>
#include <limits>
#include <memory>
#include <thread>

#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::await;
using test::Journal;
using test::ProbeWork;
using testing::ElementsAre;

std::unique_ptr<Worker> make_worker(const WorkerOptions& options = {}) {
  return std::move(Worker::create(options).value());
}

// A work that writes its name into a journal.
struct Named : ProbeWork {
  Named(Journal& journal, std::string name)
      : ProbeWork([&journal, name = std::move(name)](ProbeWork&) { journal.add(name); }) {}
};

std::atomic<int> g_static_runs{0};
constinit Work g_static_work([](Work&) { ++g_static_runs; });
constinit DelayedWork g_static_delayed([](Work&) { ++g_static_runs; });

TEST(Worker, StaticWorksNeedNoInitialisation) {
  const auto worker = make_worker();
  EXPECT_TRUE(worker->queue(g_static_work));
  EXPECT_TRUE(worker->queue_delayed(g_static_delayed, 0s));
  (void)worker->flush();
  EXPECT_EQ(g_static_runs, 2);
  EXPECT_TRUE(g_static_work.reset());
  EXPECT_TRUE(g_static_delayed.reset());
}

TEST(Worker, RunsInTheOrderOfQueueing) {
  const auto worker = make_worker();
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(worker->post([&order, i] { order.push_back(i); }));
  (void)worker->flush();
  ASSERT_EQ(order.size(), 1000U);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(Worker, ADueTimerKeepsItsPlaceAmongWhatIsQueued) {
  ManualClock clock;
  const auto worker = make_worker({.clock = &clock});
  Journal journal;
  Named blocker(journal, "blocker");
  Named before(journal, "before");
  Named timer(journal, "timer");
  Named after(journal, "after");
  blocker.held = true;
  ASSERT_TRUE(worker->queue(blocker));
  blocker.await_starts(1);
  ASSERT_TRUE(worker->queue_delayed(timer, 10ms));
  ASSERT_TRUE(worker->queue(before));
  clock.advance(10ms);
  ASSERT_TRUE(worker->queue(after));
  blocker.leave.open();
  (void)worker->flush();
  EXPECT_THAT(journal.entries(), ElementsAre("blocker", "before", "timer", "after"));
}

TEST(Worker, TimersFireInOrderOfTimeAndNeverEarly) {
  ManualClock clock;
  const auto worker = make_worker({.clock = &clock});
  Journal journal;
  Named late(journal, "late");
  Named early(journal, "early");
  ASSERT_TRUE(worker->queue_delayed(late, 20ms));
  ASSERT_TRUE(worker->queue_delayed(early, 10ms));
  clock.advance(10ms - 1ns);
  (void)worker->flush();
  EXPECT_THAT(journal.entries(), ElementsAre());
  clock.advance(1ns);
  (void)worker->flush();
  EXPECT_THAT(journal.entries(), ElementsAre("early"));
  clock.advance(1h);
  (void)worker->flush();
  EXPECT_THAT(journal.entries(), ElementsAre("early", "late"));
}

TEST(Worker, ATimerWakesTheSleepingWorkerWithoutHelp) {
  ManualClock clock;
  const auto worker = make_worker({.clock = &clock});
  ProbeWork work;
  ASSERT_TRUE(worker->queue_delayed(work, 1h));
  clock.advance(1h);
  work.await_starts(1);
  ProbeWork real;
  const auto steady = make_worker();
  ASSERT_TRUE(steady->queue_delayed(real, 1ms));
  real.await_starts(1);
}

TEST(Worker, AnEarlierTimerShortensTheSleep) {
  const auto worker = make_worker();
  ProbeWork far;
  ProbeWork near;
  ASSERT_TRUE(worker->queue_delayed(far, 10h));
  ASSERT_TRUE(worker->queue_delayed(near, 1ms));
  near.await_starts(1);
  EXPECT_TRUE(worker->cancel_sync(far));
}

TEST(Worker, AHugeDelayIsForeverAndANegativeOneIsNow) {
  const auto worker = make_worker();
  ProbeWork never;
  ProbeWork now;
  EXPECT_TRUE(worker->queue_delayed(never, Clock::Duration::max()));
  EXPECT_TRUE(worker->queue_delayed(now, -1s));
  (void)worker->flush();
  EXPECT_EQ(now.runs, 1);
  EXPECT_TRUE(worker->state(never).armed);
  EXPECT_TRUE(worker->cancel(never));
}

TEST(Worker, ModDelayedMovesAQueuedWorkToTheEnd) {
  const auto worker = make_worker();
  Journal journal;
  Named blocker(journal, "blocker");
  Named first(journal, "first");
  Named second(journal, "second");
  blocker.held = true;
  ASSERT_TRUE(worker->queue(blocker));
  blocker.await_starts(1);
  ASSERT_TRUE(worker->queue(first));
  ASSERT_TRUE(worker->queue(second));
  EXPECT_TRUE(worker->mod_delayed(first, 0s));
  blocker.leave.open();
  (void)worker->flush();
  EXPECT_THAT(journal.entries(), ElementsAre("blocker", "second", "first"));
}

TEST(Worker, APeriodicWorkRearmsItself) {
  ManualClock clock;
  const auto worker = make_worker({.clock = &clock});
  ProbeWork work([&](ProbeWork& self) { EXPECT_TRUE(worker->queue_delayed(self, 10min)); });
  ASSERT_TRUE(worker->queue_delayed(work, 10min));
  for (int i = 1; i <= 100; ++i) {
    clock.advance(10min);
    (void)worker->flush();
    ASSERT_EQ(work.runs, i);
  }
  EXPECT_TRUE(worker->cancel_sync(work));
}

TEST(Worker, AWorkMayFreeItself) {
  struct Selfless : Work {
    explicit Selfless(std::atomic<int>& its_runs) : Work(method<&Selfless::run>), runs(its_runs) {}
    void run() {
      ++runs;
      delete this;
    }
    std::atomic<int>& runs;
  };
  const auto worker = make_worker();
  std::atomic<int> runs{0};
  for (int i = 0; i < 200; ++i) {
    auto* const work = new Selfless(runs);
    EXPECT_TRUE(worker->queue(*work));
  }
  (void)worker->flush();
  EXPECT_EQ(runs, 200);
}

TEST(Worker, AFlusherDoesNotTouchAWorkThatFreesItself) {
  struct Selfless : ProbeWork {
    using ProbeWork::ProbeWork;
  };
  const auto worker = make_worker();
  for (int i = 0; i < 200; ++i) {
    test::Gate leave;
    ProbeWork blocker;
    blocker.held = true;
    ASSERT_TRUE(worker->queue(blocker));
    auto* const work = new Selfless([](ProbeWork&) {});
    struct Deleter : Work {
      explicit Deleter(ProbeWork* its_victim) : Work(method<&Deleter::run>), victim(its_victim) {}
      void run() { delete victim; }
      ProbeWork* victim;
    } deleter(work);
    ASSERT_TRUE(worker->queue(*work));
    ASSERT_TRUE(worker->queue(deleter));
    auto flusher = std::async(std::launch::async, [&] { return static_cast<bool>(worker->flush_work(*work)); });
    await([&] { return worker->state(*work).waiters == 1; });
    blocker.leave.open();
    EXPECT_TRUE(flusher.get());
    (void)worker->flush();
  }
}

TEST(Worker, FlushWaitsForAllThatWasQueuedBefore) {
  const auto worker = make_worker();
  std::atomic<int> runs{0};
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(worker->post([&] { ++runs; }));
  (void)worker->flush();
  EXPECT_EQ(runs, 500);
  EXPECT_FALSE(worker->flush()) << "nothing to wait for";
}

TEST(Worker, CancelOfAFlushedWorkReleasesTheFlusher) {
  const auto worker = make_worker();
  ProbeWork blocker;
  ProbeWork work;
  blocker.held = true;
  ASSERT_TRUE(worker->queue(blocker));
  blocker.await_starts(1);
  ASSERT_TRUE(worker->queue(work));
  auto flusher = std::async(std::launch::async, [&] { return static_cast<bool>(worker->flush_work(work)); });
  await([&] { return worker->state(work).waiters == 1; });
  EXPECT_TRUE(worker->cancel(work));
  EXPECT_TRUE(flusher.get());  // though the blocker still runs
  blocker.leave.open();
}

TEST(Worker, CancellingTheLastQueuedWorkReleasesFlush) {
  const auto worker = make_worker();
  ProbeWork blocker;
  ProbeWork work;
  blocker.held = true;
  ASSERT_TRUE(worker->queue(blocker));
  ASSERT_TRUE(worker->queue(work));
  auto flusher = std::async(std::launch::async, [&] { return static_cast<bool>(worker->flush()); });
  blocker.await_starts(1);
  EXPECT_TRUE(worker->cancel(work));
  blocker.leave.open();
  EXPECT_TRUE(flusher.get() || true);
}

TEST(Worker, DisableNestsAndEnableSaysWhenItIsOver) {
  const auto worker = make_worker();
  ProbeWork work;
  EXPECT_FALSE(worker->disable(work));
  EXPECT_FALSE(worker->disable(work));
  EXPECT_EQ(worker->queue(work).reason(), Errc::kDisabled);
  EXPECT_FALSE(worker->enable(work));
  EXPECT_EQ(worker->queue(work).reason(), Errc::kDisabled);
  EXPECT_TRUE(worker->enable(work));
  EXPECT_TRUE(worker->queue(work));
  (void)worker->flush();
  EXPECT_EQ(worker->enable(work).reason(), Errc::kInvalidArgument);
}

TEST(Worker, DisableDoesNotOverflow) {
  const auto worker = make_worker();
  ProbeWork work;
  for (int i = 0; i < std::numeric_limits<std::uint16_t>::max(); ++i) ASSERT_FALSE(worker->disable(work).refused());
  EXPECT_EQ(worker->disable(work).reason(), Errc::kOverflow);
  EXPECT_EQ(worker->state(work).disable_depth, 65535U);
}

TEST(Worker, AWorkMayDisableItself) {
  const auto worker = make_worker();
  ProbeWork work([&](ProbeWork& self) {
    EXPECT_FALSE(worker->disable(self));
    EXPECT_EQ(worker->queue(self).reason(), Errc::kDisabled);
  });
  ASSERT_TRUE(worker->queue(work));
  (void)worker->flush();
  EXPECT_EQ(work.runs, 1);
}

TEST(Worker, WhileItDrainsOnlyItsOwnWorksMayQueue) {
  const auto worker = make_worker();
  ProbeWork chained;
  ProbeWork work([&](ProbeWork&) { EXPECT_TRUE(worker->queue(chained)); });
  work.held = true;
  ASSERT_TRUE(worker->queue(work));
  work.await_starts(1);
  auto drainer = std::async(std::launch::async, [&] { return static_cast<bool>(worker->drain()); });
  ProbeWork outsider;
  await([&] {
    (void)worker->cancel(outsider);
    return worker->queue(outsider).reason() == Errc::kDraining;
  });
  EXPECT_FALSE(outsider.pending());
  EXPECT_EQ(worker->queue_delayed(outsider, 1s).reason(), Errc::kDraining);
  EXPECT_EQ(worker->mod_delayed(outsider, 1s).reason(), Errc::kDraining);
  work.leave.open();
  EXPECT_TRUE(drainer.get());
  EXPECT_EQ(chained.runs, 1);
  EXPECT_TRUE(worker->queue(outsider)) << "drained, and open again";
}

TEST(Worker, PostOwnsTheCallable) {
  const auto worker = make_worker();
  auto token = std::make_unique<int>(7);
  std::atomic<int> seen{0};
  EXPECT_TRUE(worker->post([token = std::move(token), &seen] { seen = *token; }));
  EXPECT_TRUE(worker->post_after(1us, [&seen] { ++seen; }));
  await([&] { return seen == 8; });
}

TEST(Worker, PostToAStoppedWorkerDestroysTheCallable) {
  const auto worker = make_worker();
  EXPECT_EQ(worker->stop().value(), 0U);
  const auto token = std::make_shared<int>();
  EXPECT_EQ(worker->post([token] {}).reason(), Errc::kStopped);
  EXPECT_EQ(worker->post_after(1s, [token] {}).reason(), Errc::kStopped);
  EXPECT_EQ(token.use_count(), 1);
}

TEST(Worker, ACallableMayCallBackWhenItIsDestroyedAtStop) {
  ManualClock clock;
  const auto worker = make_worker({.clock = &clock});
  ProbeWork other;
  struct CallsBack {
    Worker* worker;
    Work* work;
    ~CallsBack() {
      if (worker != nullptr) {
        EXPECT_TRUE(worker->queue(*work).refused());
      }
    }
    CallsBack(Worker* its_worker, Work* its_work) : worker(its_worker), work(its_work) {}
    CallsBack(CallsBack&& from) noexcept : worker(std::exchange(from.worker, nullptr)), work(from.work) {}
    void operator()() const {}
  };
  ASSERT_TRUE(worker->post_after(1h, CallsBack(worker.get(), &other)));
  EXPECT_EQ(worker->stop().value(), 1U);
}

TEST(Worker, StopRunsWhatIsQueued) {
  const auto worker = make_worker();
  std::atomic<int> runs{0};
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(worker->post([&] { ++runs; }));
  EXPECT_EQ(worker->stop().value(), 0U);
  EXPECT_EQ(runs, 300);
}

TEST(Worker, StopRefusesAWorkThatQueuesItself) {
  const auto worker = make_worker();
  std::atomic<bool> refused{false};
  ProbeWork work([&](ProbeWork& self) { refused = worker->queue(self).reason() == Errc::kStopped; });
  ASSERT_TRUE(worker->queue(work));
  (void)worker->stop();
  EXPECT_TRUE(refused);
  EXPECT_FALSE(work.pending());
}

TEST(Worker, OutcomeBecomesAResult) {
  const auto worker = make_worker();
  ProbeWork work;
  EXPECT_TRUE(worker->queue(work).result().value());
  (void)worker->stop();
  const Result<bool> refused = worker->queue(work).result();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kStopped);
  EXPECT_FALSE(refused.error().message().empty());
}

TEST(Worker, RunsOnTheChosenCpuUnderTheChosenName) {
  const int cpu = ::sched_getcpu();
  const auto worker = make_worker({.name = "a-name-of-more-than-15-bytes", .cpu = cpu});
  std::string name(16, '\0');
  cpu_set_t set;
  ASSERT_TRUE(worker->post([&] {
    EXPECT_EQ(::pthread_getname_np(::pthread_self(), name.data(), name.size()), 0);
    EXPECT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  }));
  (void)worker->flush();
  EXPECT_STREQ(name.c_str(), "a-name-of-more-");
  EXPECT_EQ(CPU_COUNT(&set), 1);
  EXPECT_TRUE(CPU_ISSET(static_cast<unsigned>(cpu), &set));
}

TEST(Worker, ACpuThatDoesNotExistIsRefused) {
  for (const int cpu : {-1, CPU_SETSIZE - 1, CPU_SETSIZE, std::numeric_limits<int>::max()}) {
    const auto made = Worker::create({.cpu = cpu});
    ASSERT_FALSE(made) << cpu;
    EXPECT_EQ(made.error().code(), Errc::kInvalidArgument) << made.error().to_string();
  }
}

TEST(Worker, ItsThreadTakesNoSignals) {
  const auto worker = make_worker();
  sigset_t mask;
  ASSERT_TRUE(worker->post([&] { ::pthread_sigmask(SIG_SETMASK, nullptr, &mask); }));
  (void)worker->flush();
  EXPECT_TRUE(sigismember(&mask, SIGTERM));
  EXPECT_TRUE(sigismember(&mask, SIGCHLD));
  EXPECT_FALSE(sigismember(&mask, SIGSEGV));
}

TEST(Worker, KnowsItsOwnThread) {
  const auto worker = make_worker();
  bool inside = false;
  ASSERT_TRUE(worker->post([&] { inside = worker->is_current(); }));
  (void)worker->flush();
  EXPECT_TRUE(inside);
  EXPECT_FALSE(worker->is_current());
}

TEST(Worker, SpinsAndStillSleepsAndFires) {
  ManualClock clock;
  const auto worker = make_worker({.clock = &clock, .idle_spin = 50us});
  ProbeWork timer;
  for (int i = 0; i < 100; ++i) {
    ProbeWork work;
    ASSERT_TRUE(worker->queue(work));
    work.await_starts(1);
    (void)worker->flush();
  }
  ASSERT_TRUE(worker->queue_delayed(timer, 5s));
  clock.advance(5s);
  timer.await_starts(1);
}

TEST(Worker, ManyProducersLoseNothing) {
  const auto worker = make_worker();
  std::atomic<int> runs{0};
  std::array<std::thread, 4> producers;
  for (std::thread& producer : producers) {
    producer = std::thread([&] {
      for (int i = 0; i < 5000; ++i) EXPECT_TRUE(worker->post([&] { ++runs; }));
    });
  }
  for (std::thread& producer : producers) producer.join();
  (void)worker->flush();
  EXPECT_EQ(runs, 20000);
}

// The child has the worker's memory, but not its thread.
TEST(Worker, AForkedChildDoesNotHang) {
  const auto worker = make_worker();
  ProbeWork work;
  ASSERT_TRUE(worker->queue(work));
  (void)worker->flush();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool fine = worker->flush().reason() == Errc::kStopped && worker->drain().reason() == Errc::kStopped &&
                      worker->flush_work(work).reason() == Errc::kStopped &&
                      worker->cancel_sync(work).reason() == Errc::kStopped && worker->stop().value() == 0;
    ::_exit(fine ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(WorkerDeathTest, DestructionByItsOwnWorkIsNotSilent) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        auto worker = make_worker();
        ASSERT_TRUE(worker->post([&] { worker.reset(); }));
        for (;;) ::pause();
      },
      "by one of its own works");
}

TEST(ManualClock, AdvancingTwiceBeforeTheSleeperRunsDoesNotLoseTheWakeUp) {
  ManualClock clock;
  for (int i = 0; i < 500; ++i) {
    std::atomic<std::uint32_t> word{1};
    const Clock::Time deadline = clock.now() + 2ms;
    std::thread sleeper([&] {
      while (clock.now() < deadline) {
        word = 1;
        clock.sleep(word, 1, deadline);
      }
    });
    clock.advance(1ms);
    clock.advance(1ms);
    sleeper.join();
  }
}

TEST(ManualClock, NeverGoesBack) {
  ManualClock clock;
  clock.advance(5s);
  clock.advance(-1s);
  EXPECT_EQ(clock.now().time_since_epoch(), 5s);
  clock.advance(Clock::Duration::max());
  EXPECT_EQ(clock.now(), Clock::kNever);
}

}  // namespace
}  // namespace stasis
