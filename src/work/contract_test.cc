// SPDX-License-Identifier: Apache-2.0
// The table of worker.h, cell by cell: each call in each state of a work, on a Worker and on every kind of WorkQueue.
#include <gtest/gtest.h>
#include <sched.h>

#include <future>
#include <memory>
#include <optional>
#include <string>

#include "stasis/work_queue.h"
#include "stasis/worker.h"
#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::await;
using test::ProbeWork;

// Worker and WorkQueue have these calls in common.
class Target {
 public:
  virtual ~Target() = default;
  virtual Outcome queue(Work& work) = 0;
  virtual Outcome queue_delayed(DelayedWork& work, Clock::Duration delay) = 0;
  virtual Outcome mod_delayed(DelayedWork& work, Clock::Duration delay) = 0;
  virtual Outcome cancel(Work& work) = 0;
  virtual Outcome cancel_sync(Work& work) = 0;
  virtual Outcome flush_work(Work& work) = 0;
  virtual Outcome disable(Work& work) = 0;
  virtual Outcome disable_sync(Work& work) = 0;
  virtual Outcome enable(Work& work) = 0;
  virtual Outcome flush() = 0;
  virtual WorkState state(const Work& work) = 0;
};

template <class T>
class TargetOf final : public Target {
 public:
  explicit TargetOf(Result<std::unique_ptr<T>> made) : it_(std::move(made.value())) {}
  Outcome queue(Work& work) override { return it_->queue(work); }
  Outcome queue_delayed(DelayedWork& work, Clock::Duration delay) override { return it_->queue_delayed(work, delay); }
  Outcome mod_delayed(DelayedWork& work, Clock::Duration delay) override { return it_->mod_delayed(work, delay); }
  Outcome cancel(Work& work) override { return it_->cancel(work); }
  Outcome cancel_sync(Work& work) override { return it_->cancel_sync(work); }
  Outcome flush_work(Work& work) override { return it_->flush_work(work); }
  Outcome disable(Work& work) override { return it_->disable(work); }
  Outcome disable_sync(Work& work) override { return it_->disable_sync(work); }
  Outcome enable(Work& work) override { return it_->enable(work); }
  Outcome flush() override { return it_->flush(); }
  WorkState state(const Work& work) override { return it_->state(work); }

 private:
  std::unique_ptr<T> it_;
};

enum class Kind { kWorker, kPerCpu, kUnbound, kOrdered };

// With one seat, so that a held work keeps the next one queued.
std::unique_ptr<Target> make_target(Kind kind, Clock& clock) {
  switch (kind) {
    case Kind::kWorker:
      return std::make_unique<TargetOf<Worker>>(Worker::create({.clock = &clock}));
    case Kind::kPerCpu:
      return std::make_unique<TargetOf<WorkQueue>>(
          WorkQueue::create({.kind = QueueKind::kPerCpu, .max_active = 1, .clock = &clock}));
    case Kind::kUnbound:
      return std::make_unique<TargetOf<WorkQueue>>(
          WorkQueue::create({.kind = QueueKind::kUnbound, .max_active = 1, .clock = &clock}));
    case Kind::kOrdered:
      return std::make_unique<TargetOf<WorkQueue>>(WorkQueue::create({.kind = QueueKind::kOrdered, .clock = &clock}));
  }
  return nullptr;
}

enum class State { kIdle, kArmed, kQueued, kRunning, kRunningQueued, kCanceling, kDisabled };
enum class Call {
  kQueue,
  kQueueDelayed,
  kQueueDelayedZero,
  kModDelayed,
  kModDelayedZero,
  kCancel,
  kCancelSync,
  kFlushWork,
  kDisable,
  kDisableSync,
  kEnable,
};

constexpr auto kDelay = 10ms;    // of the call
constexpr auto kArmedFor = 10s;  // of a work in state kArmed

struct Cell {
  Call call;
  State state;
  bool value;
  int runs_soon;       // once everything is let go and kDelay is over
  int runs_late;       // when also kArmedFor is over
  bool waits = false;  // the call returns only after what runs or is queued has been let go
  Errc refused{};
};

const char* name_of(Kind kind) {
  static constexpr const char* kNames[] = {"Worker", "PerCpu", "Unbound", "Ordered"};
  return kNames[static_cast<int>(kind)];
}
const char* name_of(State state) {
  static constexpr const char* kNames[] = {"Idle",          "Armed",          "Queued",  "Running",
                                           "RunningQueued", "BeingCancelled", "Disabled"};
  return kNames[static_cast<int>(state)];
}
const char* name_of(Call call) {
  static constexpr const char* kNames[] = {"Queue",  "QueueDelayed", "QueueDelayedZero", "ModDelayed", "ModDelayedZero",
                                           "Cancel", "CancelSync",   "FlushWork",        "Disable",    "DisableSync",
                                           "Enable"};
  return kNames[static_cast<int>(call)];
}

constexpr Cell kTable[] = {
    {Call::kQueue, State::kIdle, true, 1, 1},
    {Call::kQueue, State::kArmed, false, 0, 1},
    {Call::kQueue, State::kQueued, false, 1, 1},
    {Call::kQueue, State::kRunning, true, 2, 2},
    {Call::kQueue, State::kRunningQueued, false, 2, 2},
    {Call::kQueue, State::kCanceling, false, 1, 1},
    {Call::kQueue, State::kDisabled, false, 0, 0, false, Errc::kDisabled},

    {Call::kQueueDelayed, State::kIdle, true, 1, 1},
    {Call::kQueueDelayed, State::kArmed, false, 0, 1},
    {Call::kQueueDelayed, State::kQueued, false, 1, 1},
    {Call::kQueueDelayed, State::kRunning, true, 2, 2},
    {Call::kQueueDelayed, State::kRunningQueued, false, 2, 2},
    {Call::kQueueDelayed, State::kCanceling, false, 1, 1},
    {Call::kQueueDelayed, State::kDisabled, false, 0, 0, false, Errc::kDisabled},

    {Call::kQueueDelayedZero, State::kIdle, true, 1, 1},
    {Call::kQueueDelayedZero, State::kArmed, false, 0, 1},
    {Call::kQueueDelayedZero, State::kQueued, false, 1, 1},
    {Call::kQueueDelayedZero, State::kRunning, true, 2, 2},
    {Call::kQueueDelayedZero, State::kRunningQueued, false, 2, 2},
    {Call::kQueueDelayedZero, State::kCanceling, false, 1, 1},
    {Call::kQueueDelayedZero, State::kDisabled, false, 0, 0, false, Errc::kDisabled},

    {Call::kModDelayed, State::kIdle, false, 1, 1},
    {Call::kModDelayed, State::kArmed, true, 1, 1},
    {Call::kModDelayed, State::kQueued, true, 1, 1},
    {Call::kModDelayed, State::kRunning, false, 2, 2},
    {Call::kModDelayed, State::kRunningQueued, true, 2, 2},
    {Call::kModDelayed, State::kCanceling, true, 1, 1},
    {Call::kModDelayed, State::kDisabled, false, 0, 0, false, Errc::kDisabled},

    {Call::kModDelayedZero, State::kIdle, false, 1, 1},
    {Call::kModDelayedZero, State::kArmed, true, 1, 1},
    {Call::kModDelayedZero, State::kQueued, true, 1, 1},
    {Call::kModDelayedZero, State::kRunning, false, 2, 2},
    {Call::kModDelayedZero, State::kRunningQueued, true, 2, 2},
    {Call::kModDelayedZero, State::kCanceling, true, 1, 1},
    {Call::kModDelayedZero, State::kDisabled, false, 0, 0, false, Errc::kDisabled},

    {Call::kCancel, State::kIdle, false, 0, 0},
    {Call::kCancel, State::kArmed, true, 0, 0},
    {Call::kCancel, State::kQueued, true, 0, 0},
    {Call::kCancel, State::kRunning, false, 1, 1},
    {Call::kCancel, State::kRunningQueued, true, 1, 1},
    {Call::kCancel, State::kCanceling, false, 1, 1},
    {Call::kCancel, State::kDisabled, false, 0, 0},

    {Call::kCancelSync, State::kIdle, false, 0, 0},
    {Call::kCancelSync, State::kArmed, true, 0, 0},
    {Call::kCancelSync, State::kQueued, true, 0, 0},
    {Call::kCancelSync, State::kRunning, false, 1, 1, true},
    {Call::kCancelSync, State::kRunningQueued, true, 1, 1, true},
    {Call::kCancelSync, State::kCanceling, false, 1, 1, true},
    {Call::kCancelSync, State::kDisabled, false, 0, 0},

    {Call::kFlushWork, State::kIdle, false, 0, 0},
    {Call::kFlushWork, State::kArmed, true, 1, 1},  // runs it now, and so waits for nothing that is held
    {Call::kFlushWork, State::kQueued, true, 1, 1, true},
    {Call::kFlushWork, State::kRunning, true, 1, 1, true},
    {Call::kFlushWork, State::kRunningQueued, true, 2, 2, true},
    {Call::kFlushWork, State::kCanceling, true, 1, 1, true},
    {Call::kFlushWork, State::kDisabled, false, 0, 0},

    {Call::kDisable, State::kIdle, false, 0, 0},
    {Call::kDisable, State::kArmed, true, 0, 0},
    {Call::kDisable, State::kQueued, true, 0, 0},
    {Call::kDisable, State::kRunning, false, 1, 1},
    {Call::kDisable, State::kRunningQueued, true, 1, 1},
    {Call::kDisable, State::kCanceling, false, 1, 1},
    {Call::kDisable, State::kDisabled, false, 0, 0},

    {Call::kDisableSync, State::kIdle, false, 0, 0},
    {Call::kDisableSync, State::kArmed, true, 0, 0},
    {Call::kDisableSync, State::kQueued, true, 0, 0},
    {Call::kDisableSync, State::kRunning, false, 1, 1, true},
    {Call::kDisableSync, State::kRunningQueued, true, 1, 1, true},
    {Call::kDisableSync, State::kCanceling, false, 1, 1, true},
    {Call::kDisableSync, State::kDisabled, false, 0, 0},

    {Call::kEnable, State::kIdle, false, 0, 0, false, Errc::kInvalidArgument},
    {Call::kEnable, State::kArmed, false, 0, 1, false, Errc::kInvalidArgument},
    {Call::kEnable, State::kQueued, false, 1, 1, false, Errc::kInvalidArgument},
    {Call::kEnable, State::kRunning, false, 1, 1, false, Errc::kInvalidArgument},
    {Call::kEnable, State::kRunningQueued, false, 2, 2, false, Errc::kInvalidArgument},
    {Call::kEnable, State::kCanceling, false, 1, 1, false, Errc::kInvalidArgument},
    {Call::kEnable, State::kDisabled, true, 0, 0},
};

struct Param {
  Kind kind;
  Cell cell;
};

std::vector<Param> all_cells() {
  std::vector<Param> params;
  for (const Kind kind : {Kind::kWorker, Kind::kPerCpu, Kind::kUnbound, Kind::kOrdered}) {
    for (const Cell& cell : kTable) params.push_back({kind, cell});
  }
  return params;
}

class Contract : public testing::TestWithParam<Param> {
 protected:
  // Brings `work` into the state; `blocker` and `work` are held where that takes it.
  void enter(State state) {
    switch (state) {
      case State::kIdle:
        return;
      case State::kArmed:
        ASSERT_TRUE(target->queue_delayed(work, kArmedFor));
        ASSERT_TRUE(target->state(work).armed);
        return;
      case State::kQueued:
        blocker.held = true;
        ASSERT_TRUE(target->queue(blocker));
        blocker.await_starts(1);
        ASSERT_TRUE(target->queue(work));
        ASSERT_TRUE(target->state(work).queued);
        return;
      case State::kRunning:
      case State::kRunningQueued:
      case State::kCanceling:
        work.held = true;
        ASSERT_TRUE(target->queue(work));
        work.await_starts(1);
        ASSERT_TRUE(target->state(work).running);
        if (state == State::kRunningQueued) {
          ASSERT_TRUE(target->queue(work));
        }
        if (state == State::kCanceling) {
          canceller = std::async(std::launch::async, [this] { return bool{target->cancel_sync(work)}; });
          await([this] { return target->state(work).canceling; }, "the canceller");
        }
        return;
      case State::kDisabled:
        ASSERT_FALSE(target->disable(work));
        ASSERT_EQ(target->state(work).disable_depth, 1U);
        return;
    }
  }

  Outcome make(Call call) {
    switch (call) {
      case Call::kQueue:
        return target->queue(work);
      case Call::kQueueDelayed:
        return target->queue_delayed(work, kDelay);
      case Call::kQueueDelayedZero:
        return target->queue_delayed(work, 0ms);
      case Call::kModDelayed:
        return target->mod_delayed(work, kDelay);
      case Call::kModDelayedZero:
        return target->mod_delayed(work, 0ms);
      case Call::kCancel:
        return target->cancel(work);
      case Call::kCancelSync:
        return target->cancel_sync(work);
      case Call::kFlushWork:
        return target->flush_work(work);
      case Call::kDisable:
        return target->disable(work);
      case Call::kDisableSync:
        return target->disable_sync(work);
      case Call::kEnable:
        return target->enable(work);
    }
    return Outcome(false);
  }

  void let_go() {
    let_go_ = true;
    blocker.leave.open();
    work.leave.open();
    if (canceller.valid()) {
      EXPECT_FALSE(canceller.get());
    }
  }

  ManualClock clock;
  ProbeWork work;
  ProbeWork blocker;
  std::atomic<bool> let_go_{false};
  std::future<bool> canceller;
  std::unique_ptr<Target> target = make_target(GetParam().kind, clock);
};

TEST_P(Contract, Cell) {
  const Cell& cell = GetParam().cell;
  cpu_set_t before;
  if (GetParam().kind == Kind::kPerCpu) {
    // Everything on one CPU, so that the held work is in the way of the other.
    ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(static_cast<unsigned>(::sched_getcpu()), &here);
    ASSERT_EQ(::sched_setaffinity(0, sizeof here, &here), 0);
  }
  ASSERT_NO_FATAL_FAILURE(enter(cell.state));

  const std::uint32_t waiters = target->state(work).waiters;
  std::optional<Outcome> outcome;
  bool returned_early = false;
  if (cell.waits) {
    auto caller = std::async(std::launch::async, [&] {
      const Outcome made = make(cell.call);
      returned_early = !let_go_;
      return made;
    });
    await([&] { return target->state(work).waiters > waiters || caller.wait_for(0s) == std::future_status::ready; });
    let_go();
    outcome = caller.get();
  } else {
    outcome = make(cell.call);  // must return while others are held
    let_go();
  }
  EXPECT_EQ(static_cast<bool>(*outcome), cell.value);
  EXPECT_EQ(outcome->reason(), cell.refused);
  EXPECT_FALSE(returned_early);

  clock.advance(kDelay);
  (void)target->flush();
  EXPECT_EQ(work.runs, cell.runs_soon);
  clock.advance(kArmedFor);
  (void)target->flush();
  EXPECT_EQ(work.runs, cell.runs_late);
  EXPECT_FALSE(work.pending());
  EXPECT_EQ(work.starts, work.runs);
  target.reset();
  if (GetParam().kind == Kind::kPerCpu) {
    ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Contract, testing::ValuesIn(all_cells()), [](const auto& param) {
  return std::string(name_of(param.param.kind)) + "_" + name_of(param.param.cell.call) + "_" +
         name_of(param.param.cell.state);
});

}  // namespace
}  // namespace stasis
