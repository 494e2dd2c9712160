// SPDX-License-Identifier: Apache-2.0
#include "stasis/work_queue.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <vector>

#include "work/pool.h"

namespace stasis {
namespace {

constexpr unsigned kDefaultActive = 256;

// The CPUs that the process may run on. Never empty.
std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(std::max(0, ::sched_getcpu()));
  return cpus;
}

}  // namespace

class WorkQueue::Impl {
 public:
  Impl(const WorkQueueOptions& options, Clock& clock, std::vector<int> cpus, unsigned max_active)
      : pool(options, clock, std::move(cpus), max_active) {}
  detail::Pool pool;
};

Result<std::unique_ptr<WorkQueue>> WorkQueue::create(const WorkQueueOptions& options) try {
  Clock& clock = options.clock != nullptr ? *options.clock : steady_clock();
  unsigned max_active = options.max_active == 0 ? kDefaultActive : options.max_active;
  if (options.kind == QueueKind::kOrdered) max_active = 1;
  std::vector<int> cpus = allowed_cpus();
  if (options.kind != QueueKind::kPerCpu && cpus.size() > max_active) cpus.resize(max_active);
  auto impl = std::make_unique<Impl>(options, clock, std::move(cpus), max_active);
  if (!impl->pool.start()) return Error(Errc::kSystem, "can't start the thread of work queue " + options.name);
  return std::unique_ptr<WorkQueue>(new WorkQueue(std::move(impl)));
} catch (const std::bad_alloc&) {
  return Error(Errc::kNoMemory, "no memory for a work queue");
}

WorkQueue::WorkQueue(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

WorkQueue::~WorkQueue() { (void)impl_->pool.destroy(); }

Outcome WorkQueue::queue(Work& work) noexcept { return impl_->pool.queue(impl_->pool.local(), work); }
Outcome WorkQueue::queue_delayed(DelayedWork& work, Duration delay) noexcept {
  return impl_->pool.queue_delayed(impl_->pool.local(), work, delay);
}
Outcome WorkQueue::mod_delayed(DelayedWork& work, Duration delay) noexcept {
  return impl_->pool.mod_delayed(impl_->pool.local(), work, delay);
}

Outcome WorkQueue::queue_on(int cpu, Work& work) noexcept {
  detail::Shard* const shard = impl_->pool.on_cpu(cpu);
  return shard != nullptr ? impl_->pool.queue(*shard, work) : Outcome::refused(Errc::kInvalidArgument);
}
Outcome WorkQueue::queue_delayed_on(int cpu, DelayedWork& work, Duration delay) noexcept {
  detail::Shard* const shard = impl_->pool.on_cpu(cpu);
  return shard != nullptr ? impl_->pool.queue_delayed(*shard, work, delay) : Outcome::refused(Errc::kInvalidArgument);
}
Outcome WorkQueue::mod_delayed_on(int cpu, DelayedWork& work, Duration delay) noexcept {
  detail::Shard* const shard = impl_->pool.on_cpu(cpu);
  return shard != nullptr ? impl_->pool.mod_delayed(*shard, work, delay) : Outcome::refused(Errc::kInvalidArgument);
}

Outcome WorkQueue::cancel(Work& work) noexcept { return impl_->pool.cancel(work, detail::WorkCore::Wait::kNo); }
Outcome WorkQueue::cancel_sync(Work& work) noexcept {
  return impl_->pool.cancel(work, detail::WorkCore::Wait::kForRun);
}
Outcome WorkQueue::flush_work(Work& work) noexcept { return impl_->pool.flush_work(work); }
Outcome WorkQueue::disable(Work& work) noexcept { return impl_->pool.disable(work, detail::WorkCore::Wait::kNo); }
Outcome WorkQueue::disable_sync(Work& work) noexcept {
  return impl_->pool.disable(work, detail::WorkCore::Wait::kForRun);
}
Outcome WorkQueue::enable(Work& work) noexcept { return impl_->pool.enable(work); }
Outcome WorkQueue::flush() noexcept { return impl_->pool.flush(); }
Outcome WorkQueue::drain() noexcept { return impl_->pool.drain(); }
Outcome WorkQueue::adopt(Work* work) noexcept { return impl_->pool.adopt(impl_->pool.local(), work); }
Outcome WorkQueue::adopt(DelayedWork* work, Duration delay) noexcept {
  return impl_->pool.adopt(impl_->pool.local(), work, delay);
}
WorkState WorkQueue::state(const Work& work) noexcept { return impl_->pool.state(const_cast<Work&>(work)); }
bool WorkQueue::is_current() const noexcept { return impl_->pool.on_own_thread(); }
bool WorkQueue::raised_priority() const noexcept { return impl_->pool.raised_priority(); }

Result<std::size_t> WorkQueue::destroy() noexcept {
  if (is_current()) return Outcome::refused(Errc::kWouldDeadlock).error();
  return impl_->pool.destroy();
}

namespace {

// The process-wide queue. A child of fork() has none of its threads, and so forgets it.
std::atomic<WorkQueue*>& system_queue_slot() {
  static std::atomic<WorkQueue*> slot{nullptr};
  static const int registered =
      ::pthread_atfork(nullptr, nullptr, [] { system_queue_slot().store(nullptr, std::memory_order_release); });
  (void)registered;
  return slot;
}

}  // namespace

WorkQueue& system_queue() {
  std::atomic<WorkQueue*>& slot = system_queue_slot();
  WorkQueue* queue = slot.load(std::memory_order_acquire);
  if (queue != nullptr) return *queue;
  auto made = WorkQueue::create({.name = "stasis-system"});
  if (!made) throw std::bad_alloc();
  // Whoever comes second uses the first one's.
  if (slot.compare_exchange_strong(queue, made->get(), std::memory_order_acq_rel)) return *made->release();
  return *queue;
}

}  // namespace stasis
