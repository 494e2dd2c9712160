// SPDX-License-Identifier: Apache-2.0
// Every interleaving of one queue() with each call that takes the lock: the call is executed instruction by
// instruction, and in the n-th trial queue() is called between its n-th instruction and the next, as another thread
// would that was faster. What a chance of one in a million keeps from a stress test is found at its one instruction
// here. (queue() needs no lock as long as nothing is due and nobody cancels, so it may be called in a signal handler.)
#include <gtest/gtest.h>

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#include <signal.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>

#include "stasis/worker.h"
#include "work/test_support.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;
using test::ProbeWork;

#ifdef __SANITIZE_ADDRESS__
constexpr int kStride = 7;  // instructions from trial to trial: there are ten times as many
#else
constexpr int kStride = 1;
#endif

// Executes a function step by step, and another one after a given number of steps.
class Stepper {
 public:
  Stepper() {
    struct sigaction action{};
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO;
    EXPECT_EQ(::sigaction(SIGTRAP, &action, &before_), 0);
  }
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;
  ~Stepper() { ::sigaction(SIGTRAP, &before_, nullptr); }

  // False: `function` was over before `step`.
  template <class Function>
  bool run(const Function& function, long step, const std::function<void()>& intruder) {
    left_ = step;
    intruder_ = &intruder;
    asm volatile("int3" ::: "memory");
    function();
    asm volatile("int3" ::: "memory");
    return intruder_ == nullptr;
  }

 private:
  static constexpr greg_t kTrapFlag = 0x100;  // of EFLAGS

  static void on_trap(int, siginfo_t* info, void* context) {
    greg_t& flags = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL];
    if (info->si_code != TRAP_TRACE) {
      flags ^= intruder_ != nullptr ? kTrapFlag : 0;  // begin, or end if the intruder has not come
    } else if (--left_ < 0) {
      flags &= ~kTrapFlag;
      (*std::exchange(intruder_, nullptr))();
    }
  }

  static inline long left_ = 0;
  static inline const std::function<void()>* intruder_ = nullptr;
  struct sigaction before_{};
};

enum class State { kIdle, kArmed, kQueued };
enum class Call { kQueue, kQueueDelayed, kModDelayed, kModDelayedZero, kCancel, kDisable };

const char* name_of(State state) {
  static constexpr const char* kNames[] = {"Idle", "Armed", "Queued"};
  return kNames[static_cast<int>(state)];
}
const char* name_of(Call call) {
  static constexpr const char* kNames[] = {"Queue",          "QueueDelayed", "ModDelayed",
                                           "ModDelayedZero", "Cancel",       "Disable"};
  return kNames[static_cast<int>(call)];
}

class Interleaving : public testing::TestWithParam<std::tuple<Call, State>> {
 protected:
  // By how many the call says it changed the number of instances.
  int make(Call call) {
    switch (call) {
      case Call::kQueue:
        return worker_->queue(work_) ? 1 : 0;
      case Call::kQueueDelayed:
        return worker_->queue_delayed(work_, 1h) ? 1 : 0;
      case Call::kModDelayed:
        return moved(worker_->mod_delayed(work_, 1h));
      case Call::kModDelayedZero:
        return moved(worker_->mod_delayed(work_, 0h));
      case Call::kCancel:
        return worker_->cancel(work_) ? -1 : 0;
      case Call::kDisable:
        break;
    }
    const int taken = worker_->disable(work_) ? -1 : 0;
    refused_ += worker_->enable(work_).refused() ? 1 : 0;
    return taken;
  }
  static int moved(Outcome outcome) { return !outcome && !outcome.refused() ? 1 : 0; }

  // A failed trial must not hang.
  struct Release {
    Worker& worker;
    ProbeWork& blocker;
    ProbeWork& last;
    ~Release() {
      blocker.leave.open();
      (void)worker.cancel_sync(last);
      (void)worker.flush();
    }
  };

  ManualClock clock_;
  std::unique_ptr<Worker> worker_ = std::move(Worker::create({.clock = &clock_}).value());
  ProbeWork work_;
  int refused_ = 0;
};

TEST_P(Interleaving, WithQueueIsInOrderAtEveryInstruction) {
  const auto [call, state] = GetParam();
  Stepper stepper;
  bool came = true;
  long instruction = 0;
  for (; came; instruction += kStride) {
    SCOPED_TRACE("instruction " + std::to_string(instruction));
    ProbeWork blocker;
    ProbeWork last;
    blocker.held = true;
    const Release release{*worker_, blocker, last};
    const int runs = work_.runs;
    ASSERT_TRUE(worker_->queue(blocker));
    blocker.await_starts(1);
    int instances = 0;
    if (state == State::kArmed) instances += make(Call::kQueueDelayed);
    if (state == State::kQueued) instances += make(Call::kQueue);

    int by_call = 0;
    int by_intruder = 0;
    came = stepper.run([&, its_call = call] { by_call = make(its_call); }, instruction,
                       [&] { by_intruder = make(Call::kQueue); });

    instances += by_call + by_intruder;
    ASSERT_TRUE(instances == 0 || instances == 1) << instances;
    ASSERT_EQ(work_.pending(), instances == 1);
    ASSERT_TRUE(worker_->queue(last));
    if (instruction % 2 == 0) instances += make(Call::kCancel);
    blocker.leave.open();
    (void)worker_->flush_work(work_);  // an armed one runs now
    (void)worker_->flush();
    ASSERT_EQ(work_.runs - runs, instances);
    ASSERT_FALSE(work_.pending());
    ASSERT_EQ(last.runs, 1);
  }
  EXPECT_EQ(refused_, 0);
  EXPECT_GT(instruction, 10);
}

INSTANTIATE_TEST_SUITE_P(Calls, Interleaving,
                         testing::Combine(testing::Values(Call::kQueue, Call::kQueueDelayed, Call::kModDelayed,
                                                          Call::kModDelayedZero, Call::kCancel, Call::kDisable),
                                          testing::Values(State::kIdle, State::kArmed, State::kQueued)),
                         [](const auto& param) {
                           return std::string(name_of(std::get<0>(param.param))) + "_" +
                                  name_of(std::get<1>(param.param));
                         });

}  // namespace
}  // namespace stasis
#endif
