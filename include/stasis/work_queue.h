// SPDX-License-Identifier: Apache-2.0
// WorkQueue: runs works on as many threads as it takes (the kernel's workqueue).
//
//   auto queue = STASIS_TRY(WorkQueue::create({.name = "pages", .kind = QueueKind::kUnbound}));
//   queue->queue(work);
//   queue->queue_on(2, work);                        // on CPU 2
//   queue->post([chunk] { compress(chunk); });       // one-shot, owned by the queue
//   queue->flush();
//   system_queue().queue_delayed(work, 100ms);       // the process-wide one, for short works
//
// The calls on works, and what they return in each state, are those of Worker (see the table in worker.h). Beyond that:
//  * A work never runs twice at once, whatever CPU it is queued on: while it runs it is queued where it runs.
//  * Per CPU: a work runs on the CPU it was queued on (or for), and is never moved. One work at a time runs there,
//    until it blocks: then the next one starts, up to max_active. That a work blocks is noticed within about 2 ms, or
//    at once inside a ScopedBlocking. Works of one per-CPU queue are therefore not serialised.
//  * Unbound: a work starts near the CPU it was queued on, and idle threads take it from there. A work that blocks, or
//    computes for more than about 10 ms, lets others start, up to max_active for the whole queue.
//  * Ordered: one work at a time, in the order of queueing.
//  * High priority: the threads are given nice -20 where the process may do that (raised_priority() tells).
//
// Where no thread can be started (RLIMIT_NPROC, memory), works wait until one can; who waits for them, by flush_work(),
// flush(), drain() or destroy(), runs them himself.
// Differences from the kernel: each queue has its own threads (started when needed, gone after 5 s of leisure), so that
// queues don't wait for one another; a work belongs to one queue until it is reset(); a draining queue refuses others'
// works with false and leaves them idle; an armed work that falls due while draining is run; destroy() has a defined
// result.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "stasis/clock.h"
#include "stasis/result.h"
#include "stasis/work.h"

namespace stasis {

enum class QueueKind { kPerCpu, kUnbound, kOrdered };
enum class QueuePriority { kNormal, kHigh };

struct WorkQueueOptions {
  std::string name = "stasis-wq";  // of the threads; cut to 15 bytes
  QueueKind kind = QueueKind::kPerCpu;
  // How many works run at once: on each CPU (kPerCpu) or in all (kUnbound). 0 means 256; kOrdered: always 1.
  unsigned max_active = 0;
  QueuePriority priority = QueuePriority::kNormal;
  Clock* clock = nullptr;  // for delays; steady_clock() if null; must outlive the queue
  // How long an idle thread looks for work before it sleeps (see WorkerOptions).
  Clock::Duration idle_spin = Clock::Duration::zero();
};

class WorkQueue {
 public:
  using Duration = Clock::Duration;

  static Result<std::unique_ptr<WorkQueue>> create(const WorkQueueOptions& options = {});
  // destroy(). Must not run on one of the queue's own threads.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // On the calling thread's CPU. As Worker's; works of this queue may also wait for one another where a seat is free
  // (kWouldDeadlock if there is only one).
  Outcome queue(Work& work) noexcept;
  Outcome queue_delayed(DelayedWork& work, Duration delay) noexcept;
  Outcome mod_delayed(DelayedWork& work, Duration delay) noexcept;
  // On a given CPU. kInvalidArgument: the process could not run there when the queue was made.
  Outcome queue_on(int cpu, Work& work) noexcept;
  Outcome queue_delayed_on(int cpu, DelayedWork& work, Duration delay) noexcept;
  Outcome mod_delayed_on(int cpu, DelayedWork& work, Duration delay) noexcept;

  Outcome cancel(Work& work) noexcept;
  Outcome cancel_sync(Work& work) noexcept;
  Outcome flush_work(Work& work) noexcept;
  Outcome disable(Work& work) noexcept;
  Outcome disable_sync(Work& work) noexcept;
  Outcome enable(Work& work) noexcept;

  // Waits for everything queued before the call; not for timers that are not due.
  Outcome flush() noexcept;
  // Waits until nothing is queued or running; meanwhile only works of this queue may queue (kDraining for all others).
  Outcome drain() noexcept;

  template <class F>
  Outcome post(F&& callable) {
    return adopt(new (std::nothrow) detail::OneShot<Work, std::decay_t<F>>(std::forward<F>(callable)));
  }
  template <class F>
  Outcome post_after(Duration delay, F&& callable) {
    return adopt(new (std::nothrow) detail::OneShot<DelayedWork, std::decay_t<F>>(std::forward<F>(callable)), delay);
  }

  // drain(), then refuses all works, disarms what is armed (armed works are idle then, callables are destroyed) and
  // ends the threads. Returns how many timers were disarmed; 0 on a second call. A work that always queues itself again
  // must be cancelled before. kWouldDeadlock on one of the queue's own threads.
  Result<std::size_t> destroy() noexcept;

  WorkState state(const Work& work) noexcept;
  // Is the calling thread one of this queue's?
  bool is_current() const noexcept;
  // Did a thread of a kHigh queue get its priority?
  bool raised_priority() const noexcept;

 private:
  class Impl;
  explicit WorkQueue(std::unique_ptr<Impl> impl);
  Outcome adopt(Work* work) noexcept;
  Outcome adopt(DelayedWork* work, Duration delay) noexcept;

  std::unique_ptr<Impl> impl_;
};

// A per-CPU queue for short works of the whole process, made at first use and never destroyed: what is pending when the
// process exits does not run. The child of a fork() gets a new one; works that were pending on the parent's stay so.
WorkQueue& system_queue();

// Says that the running work waits for something other than the CPU, so that its queue starts the next one at once.
// Without effect outside a work. The waiting calls of Worker and WorkQueue do this by themselves.
class ScopedBlocking {
 public:
  ScopedBlocking() noexcept;
  ~ScopedBlocking();
  ScopedBlocking(const ScopedBlocking&) = delete;
  ScopedBlocking& operator=(const ScopedBlocking&) = delete;
};

}  // namespace stasis
