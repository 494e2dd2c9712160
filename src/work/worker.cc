// SPDX-License-Identifier: Apache-2.0
#include "stasis/worker.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <new>

#include "work/thread.h"
#include "work/work_core.h"

namespace stasis {

class Worker::Impl final : public detail::WorkCore {
 public:
  Impl(Clock& clock, Duration idle_spin) : WorkCore(clock, 1, 1), idle_spin_(idle_spin) {}
  ~Impl() override = default;

  Result<void> start(const WorkerOptions& options) {
    const auto main = [](void* self) noexcept { static_cast<Impl*>(self)->run(); };
    thread_ = STASIS_TRY(detail::start_thread({.name = options.name, .cpu = options.cpu}, main, this));
    return {};
  }
  // Ends the thread; returns how many timers were disarmed.
  std::size_t stop() noexcept {
    if (forked() || !close_gate()) return 0;
    (void)only().ring();
    detail::join_thread(thread_);
    return only().abandon();
  }
  detail::Shard& only() noexcept { return shard(0); }

 private:
  void wake(detail::Shard& shard) noexcept override { (void)shard.ring(); }
  void run() noexcept;
  void spin() noexcept;

  const Duration idle_spin_;
  pthread_t thread_{};
};

void Worker::Impl::run() noexcept {
  enter_thread();
  detail::Shard& shard = only();
  detail::Runner runner{.thread = ::pthread_self()};
  std::unique_lock lock(shard);
  shard.attach_locked(runner);
  for (;;) {
    if (Work* const work = shard.pop_locked(runner)) {
      lock.unlock();
      detail::Shard::call(*work);
      lock.lock();
      shard.finish_locked(runner);
      continue;
    }
    if (gate_closed()) {
      if (shard.close_locked()) break;
      continue;
    }
    if (idle_spin_ > Duration::zero()) {
      lock.unlock();
      spin();
      lock.lock();
      if (shard.backlogged()) continue;
    }
    if (!shard.prepare_sleep_locked()) continue;
    lock.unlock();
    shard.sleep();
    lock.lock();
  }
  shard.detach_locked(runner);
}

void Worker::Impl::spin() noexcept {
  constexpr int kLooksPerTime = 16;  // a look at the time costs as much as a dozen at the inbox
  const Clock::Time until = Clock::after(steady_clock().now(), idle_spin_);
  do {
    for (int i = 0; i < kLooksPerTime; ++i) {
      if (only().backlogged() || gate_closed()) return;
      detail::cpu_relax();
    }
  } while (steady_clock().now() < until && !only().timer_due());
}

Result<std::unique_ptr<Worker>> Worker::create(const WorkerOptions& options) try {
  const bool may_spin = ::sysconf(_SC_NPROCESSORS_ONLN) > 1;
  Clock& clock = options.clock != nullptr ? *options.clock : steady_clock();
  auto impl = std::make_unique<Impl>(clock, may_spin ? options.idle_spin : Duration::zero());
  STASIS_TRY(impl->start(options));
  return std::unique_ptr<Worker>(new Worker(std::move(impl)));
} catch (const std::bad_alloc&) {
  return Error(Errc::kNoMemory, "no memory for a worker");
}

Worker::Worker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Worker::~Worker() { (void)impl_->stop(); }

Outcome Worker::queue(Work& work) noexcept { return impl_->queue(impl_->only(), work); }
Outcome Worker::queue_delayed(DelayedWork& work, Duration delay) noexcept {
  return impl_->queue_delayed(impl_->only(), work, delay);
}
Outcome Worker::mod_delayed(DelayedWork& work, Duration delay) noexcept {
  return impl_->mod_delayed(impl_->only(), work, delay);
}
Outcome Worker::cancel(Work& work) noexcept { return impl_->cancel(work, Impl::Wait::kNo); }
Outcome Worker::cancel_sync(Work& work) noexcept { return impl_->cancel(work, Impl::Wait::kForRun); }
Outcome Worker::flush_work(Work& work) noexcept { return impl_->flush_work(work); }
Outcome Worker::disable(Work& work) noexcept { return impl_->disable(work, Impl::Wait::kNo); }
Outcome Worker::disable_sync(Work& work) noexcept { return impl_->disable(work, Impl::Wait::kForRun); }
Outcome Worker::enable(Work& work) noexcept { return impl_->enable(work); }
Outcome Worker::flush() noexcept { return impl_->flush(); }
Outcome Worker::drain() noexcept { return impl_->drain(); }
Outcome Worker::adopt(Work* work) noexcept { return impl_->adopt(impl_->only(), work); }
Outcome Worker::adopt(DelayedWork* work, Duration delay) noexcept { return impl_->adopt(impl_->only(), work, delay); }
WorkState Worker::state(const Work& work) noexcept { return impl_->state(const_cast<Work&>(work)); }
bool Worker::is_current() const noexcept { return impl_->on_own_thread(); }

Result<std::size_t> Worker::stop() noexcept {
  if (is_current()) return Outcome::refused(Errc::kWouldDeadlock).error();
  return impl_->stop();
}

}  // namespace stasis
