// SPDX-License-Identifier: Apache-2.0
// Worker: one thread that runs works in the order in which they were queued (the kernel's kthread_worker).
//
//   auto worker = STASIS_TRY(Worker::create({.name = "saver"}));
//   struct Save : DelayedWork { ... } save;
//   worker->queue(work);                       // now
//   worker->queue_delayed(save, 10min);        // later, unless it is pending already
//   worker->mod_delayed(save, 1s);             // at that time, whatever it was before
//   worker->cancel_sync(save);                 // not pending and not running any more
//   worker->post([data = std::move(data)] { ... });   // one-shot, owned by the worker
//
// What each call returns in each state of the work (N: the Outcome's value; see doc/deferred-work.md for why):
//
//                   idle        armed          queued          running, not pending   running, being cancelled disabled
//   queue           true        false          false           true, runs again       false refused queue_delayed true
//   false          false           true                   false                      refused mod_delayed     false
//   true, moved    true, moved     false, armed           true, nothing done         refused cancel          false true
//   true            false                  false                      false cancel_sync     false       true true
//   false, after the run   false, after the run       false flush_work      false       true: runs now true, after it
//   true, after the run    true, after the run        false disable         false       true           true false false
//   false, deeper
//
// A work that is running and queued again: queue is false, mod_delayed and cancel* are true (cancel_sync takes the
// queued instance away and waits for the run), flush_work waits for the queued instance.
// "False" orders memory as "true" does: the run that was pending sees what the caller wrote before the call.
//
// Differences from the kernel: flush_work of an armed work runs it now (the kernel's kthread worker hangs); a queue
// that drains refuses with false and leaves the work idle; calls that would wait for themselves (cancel_sync or flush
// of a work in its own function, flush, drain or stop from the worker's own thread) and works of another worker are
// refused with a reason; what is still armed at stop() is disarmed and counted.
//
// Threads: everything may be called from any thread, from works too, but not from signal handlers; nothing may be
// called once the destructor has begun. queue and its kin never block; *_sync, flush*, drain and stop do. After fork(2)
// the child has no worker thread: waiting calls are refused with kStopped there, stop() and the destructor return at
// once.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "stasis/clock.h"
#include "stasis/result.h"
#include "stasis/work.h"

namespace stasis {

struct WorkerOptions {
  std::string name = "stasis-worker";  // of the thread; the kernel keeps 15 bytes
  std::optional<int> cpu = {};         // the thread runs on this CPU only
  Clock* clock = nullptr;              // steady_clock() if null; must outlive the worker
  // How long an idle worker looks for work before it sleeps: spares the wake-up (about 10 us), costs that much CPU. No
  // effect where only one CPU is online. More than 50 us rarely pays.
  Clock::Duration idle_spin = Clock::Duration::zero();
};

class Worker {
 public:
  using Duration = Clock::Duration;

  // Starts the thread. kSystem, kNoMemory: it can't be started; kInvalidArgument: there is no such CPU.
  static Result<std::unique_ptr<Worker>> create(const WorkerOptions& options = {});
  // stop(). Must not run on the worker's own thread.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Refused: kWrongWorker, kDisabled, kDraining, kStopped. queue_delayed and mod_delayed also kNoMemory (not pending
  // then). A delay <= 0 means now.
  Outcome queue(Work& work) noexcept;
  Outcome queue_delayed(DelayedWork& work, Duration delay) noexcept;
  Outcome mod_delayed(DelayedWork& work, Duration delay) noexcept;

  // Takes it off whatever it is pending on. A run may go on; cancel_sync waits for its end, and keeps the work from
  // being queued by anybody until then. Refused: kWrongWorker; cancel_sync also kWouldDeadlock.
  Outcome cancel(Work& work) noexcept;
  Outcome cancel_sync(Work& work) noexcept;
  // Waits for the instance queued last (an armed one is queued at once), true if there was something to wait for. The
  // work may queue itself again, or free itself, meanwhile. Refused: kWrongWorker, kWouldDeadlock.
  Outcome flush_work(Work& work) noexcept;

  // Cancels, and refuses to queue until enable() was called as often. Refused: kOverflow at 65535, and as cancel.
  Outcome disable(Work& work) noexcept;
  Outcome disable_sync(Work& work) noexcept;
  // True: it can be queued again (what was cancelled is not). Refused with kInvalidArgument if it is not disabled.
  Outcome enable(Work& work) noexcept;

  // Waits until everything queued before the call has run; not for armed timers that are not due. True if it waited.
  Outcome flush() noexcept;
  // Waits until nothing is queued or running; meanwhile only works of this worker may queue (kDraining for all others).
  // A work that always queues itself again is waited for without end.
  Outcome drain() noexcept;

  // Runs `callable` once. Refused (and destroyed): kNoMemory, kDraining, kStopped.
  template <class F>
  Outcome post(F&& callable) {
    return adopt(new (std::nothrow) detail::OneShot<Work, std::decay_t<F>>(std::forward<F>(callable)));
  }
  template <class F>
  Outcome post_after(Duration delay, F&& callable) {
    return adopt(new (std::nothrow) detail::OneShot<DelayedWork, std::decay_t<F>>(std::forward<F>(callable)), delay);
  }

  // Refuses all works from now on, runs what is queued, disarms what is armed (armed works are idle then, callables
  // are destroyed), ends the thread. Returns how many timers were disarmed; 0 on a second call. kWouldDeadlock on
  // the worker's own thread.
  Result<std::size_t> stop() noexcept;

  WorkState state(const Work& work) noexcept;
  // Is the calling thread this worker?
  bool is_current() const noexcept;

 private:
  class Impl;
  explicit Worker(std::unique_ptr<Impl> impl);
  Outcome adopt(Work* work) noexcept;
  Outcome adopt(DelayedWork* work, Duration delay) noexcept;

  std::unique_ptr<Impl> impl_;
};

}  // namespace stasis
