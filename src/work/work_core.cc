// SPDX-License-Identifier: Apache-2.0
#include "work/work_core.h"

#include <unistd.h>

#include <limits>
#include <string>
#include <thread>
#include <utility>

#include "stasis/work_queue.h"

namespace stasis {

Error Outcome::error() const { return Error(reason_, std::string(errc_info(reason_).meaning)); }

Result<bool> Outcome::result() const {
  if (refused()) return error();
  return value_;
}

Outcome Work::reset() noexcept {
  std::uint64_t seen = state_.load(std::memory_order_acquire);
  if ((seen & (kPending | kDisabled)) != 0) return Outcome::refused(Errc::kBusy);
  // Before the owner is forgotten: from then on the work is anybody's.
  run_ticket_ = 0;
  if (!state_.compare_exchange_strong(seen, 0)) return Outcome::refused(Errc::kBusy);
  return Outcome(true);
}

ScopedBlocking::ScopedBlocking() noexcept {
  if (detail::Blockable* const self = detail::Blockable::current()) self->block();
}
ScopedBlocking::~ScopedBlocking() {
  if (detail::Blockable* const self = detail::Blockable::current()) self->unblock();
}

}  // namespace stasis

namespace stasis::detail {
namespace {

// Which core the calling thread belongs to, for its whole life.
thread_local const WorkCore* t_own_core = nullptr;

std::uint32_t new_identity() noexcept {
  static std::atomic<std::uint32_t> last{0};
  std::uint32_t id = ++last;
  while (id == 0) id = ++last;  // 0 means "no owner"
  return id;
}

// Between a producer's claim and its push lie a few instructions, unless it is preempted there.
void await_producer(unsigned round) noexcept {
  constexpr unsigned kSpins = 64;
  constexpr auto kNap = std::chrono::microseconds(50);
  if (round < kSpins) {
    cpu_relax();
  } else {
    std::this_thread::sleep_for(kNap);
  }
}

// The calling thread's pool member, for ScopedBlocking.
thread_local Blockable* t_blockable = nullptr;

}  // namespace

Blockable* Blockable::current() noexcept { return t_blockable; }
void Blockable::set_current(Blockable* blockable) noexcept { t_blockable = blockable; }

WorkCore::WorkCore(Clock& clock, unsigned shards, unsigned seats)
    : clock_(clock), id_(new_identity()), pid_(::getpid()) {
  shards_.reserve(shards);
  for (unsigned i = 0; i < shards; ++i) {
    const std::uint64_t idle = std::uint64_t{id_} << Work::kOwnerShift | std::uint64_t{i} << Work::kShardShift;
    shards_.push_back(std::make_unique<Shard>(*this, idle, seats));
  }
}

WorkCore::~WorkCore() = default;

bool WorkCore::on_own_thread() const noexcept { return t_own_core == this; }
void WorkCore::enter_thread() const noexcept { t_own_core = this; }
bool WorkCore::forked() const noexcept { return ::getpid() != pid_; }

bool WorkCore::close_gate() noexcept {
  return (gate_.fetch_or(kGateClosed, std::memory_order_seq_cst) & kGateClosed) == 0;
}

Outcome WorkCore::gate_refusal() const noexcept {
  const std::uint32_t gate = gate_.load(std::memory_order_seq_cst);
  if ((gate & kGateClosed) != 0) return Outcome::refused(Errc::kStopped);
  // While it drains, only its own works may queue more.
  if (gate != 0 && !on_own_thread()) return Outcome::refused(Errc::kDraining);
  return Outcome(true);
}

void WorkCore::clear_pending(Work& work) noexcept { work.state_.fetch_and(~Work::kPending, std::memory_order_acq_rel); }

// Takes kPending away (it is `pending` and was unlinked, or is idle) and sets `flags`. False: it was idle, and somebody
// has just claimed it; nothing was done.
bool WorkCore::leave_pending(Work& work, bool pending, std::uint64_t flags) noexcept {
  std::uint64_t state = work.state_.load(std::memory_order_acquire);
  while (pending || (state & Work::kPending) == 0) {
    if (work.state_.compare_exchange_strong(state, (state & ~Work::kPending) | flags)) return true;
  }
  return false;
}

// ---- claiming: from idle to pending

// The work is not idle at `target`: find out what it is.
WorkCore::Claim WorkCore::claim_slow(Shard& target, Work& work) noexcept {
  for (;;) {
    std::uint64_t seen = work.state_.load(std::memory_order_acquire);
    const std::uint32_t owner = owner_in(seen);
    if (owner != 0 && owner != id_) return {nullptr, Outcome::refused(Errc::kWrongWorker)};
    if ((seen & Work::kDisabled) != 0) return {nullptr, Outcome::refused(Errc::kDisabled)};
    if ((seen & Work::kPending) != 0) {
      // Writing back what was read makes "false" a full barrier: the pending run will see the caller's stores.
      if (work.state_.compare_exchange_strong(seen, seen)) return {nullptr, Outcome(false)};
      continue;
    }
    if ((seen & Work::kCanceling) != 0) {
      if (!forget_canceling(work, seen)) return {nullptr, Outcome(false)};
      continue;
    }
    if (owner == 0 || &shard_in(seen) == &target) {
      if (work.state_.compare_exchange_strong(seen, target.idle_state_ | Work::kPending))
        return {&target, Outcome(true)};
    } else if (Shard* const shard = claim_elsewhere(target, work, seen)) {
      return {shard, Outcome(true)};
    }
  }
}

// Nobody clears kCanceling when the run is over, since the work may be gone by then. False: it still goes on.
bool WorkCore::forget_canceling(Work& work, std::uint64_t seen) noexcept {
  Shard& shard = shard_in(seen);
  const std::lock_guard lock(shard);
  if (work.state_.load(std::memory_order_acquire) != seen) return true;
  const Runner* const runner = shard.running_locked(work);
  if (runner != nullptr && runner->canceling) return false;
  work.state_.compare_exchange_strong(seen, seen & ~Work::kCanceling);
  return true;
}

// Claims a work that was last at another shard. While it runs there it is queued there, so that it never runs twice at
// once. Null: the state has changed.
Shard* WorkCore::claim_elsewhere(Shard& target, Work& work, std::uint64_t seen) noexcept {
  Shard& last = shard_in(seen);
  const std::lock_guard lock(last);
  if (work.state_.load(std::memory_order_acquire) != seen) return nullptr;
  Shard& chosen = last.running_locked(work) != nullptr ? last : target;
  if (!work.state_.compare_exchange_strong(seen, chosen.idle_state_ | Work::kPending)) return nullptr;
  if (&chosen != &last) work.run_ticket_ = 0;  // tickets are the shard's own
  return &chosen;
}

// ---- the calls

Outcome WorkCore::queue_delayed(Shard& target, DelayedWork& work, Clock::Duration delay) noexcept {
  if (delay <= Clock::Duration::zero()) return queue(target, work);
  if (const Outcome refusal = gate_refusal(); refusal.refused()) return refusal;
  const Claim claimed = claim(target, work);
  if (claimed.shard == nullptr) return claimed.outcome;
  const std::lock_guard lock(*claimed.shard);
  return claimed.shard->put_locked(work, delay);
}

template <class Action>
Outcome WorkCore::with_shard(Work& work, Outcome unowned, Action action) noexcept {
  for (unsigned round = 0;; ++round) {
    const std::uint64_t seen = work.state_.load(std::memory_order_acquire);
    if (owner_in(seen) == 0) return unowned;
    if (owner_in(seen) != id_) return Outcome::refused(Errc::kWrongWorker);
    Shard& shard = shard_in(seen);
    std::unique_lock lock(shard);
    const std::uint64_t state = work.state_.load(std::memory_order_acquire);
    if ((state ^ seen) >> Work::kShardShift != 0) continue;
    const bool pending = is_pending(state);
    if (pending && work.place_ == Work::Place::kNowhere) {
      shard.take_inbox_locked();
      shard.link_batch_locked();
    }
    if (!pending || work.place_ != Work::Place::kNowhere) {
      if (const std::optional<Outcome> outcome = action(lock, shard, state)) return *outcome;
      continue;
    }
    lock.unlock();
    await_producer(round);
  }
}

Outcome WorkCore::mod_delayed(Shard& target, DelayedWork& work, Clock::Duration delay) noexcept {
  for (;;) {
    const auto move = [&](std::unique_lock<Shard>& lock, Shard& shard, std::uint64_t state) -> std::optional<Outcome> {
      const bool pending = is_pending(state);
      if ((state & Work::kDisabled) != 0) return Outcome::refused(Errc::kDisabled);
      const Runner* const runner = shard.running_locked(work);
      if (runner != nullptr && runner->canceling) return Outcome(true);
      Shard& chosen = runner != nullptr ? shard : target;
      if (pending) {
        shard.unlink_locked(work);
      } else if (const Outcome refusal = gate_refusal(); refusal.refused()) {
        return refusal;
      }
      // From here on the work is claimed and nowhere; who looks for it waits. An idle work is claimed from the state
      // that was found idle, not from a later look at it, since a producer may have claimed it in between.
      while (!work.state_.compare_exchange_strong(state, chosen.idle_state_ | Work::kPending)) {
        if (!pending) return std::nullopt;
      }
      if (&chosen != &shard) {
        work.run_ticket_ = 0;
        lock.unlock();
        lock = std::unique_lock(chosen);
      }
      const Outcome put = chosen.put_locked(work, delay);
      return put.refused() ? put : Outcome(pending);
    };
    const Outcome outcome = with_shard(work, Outcome::refused(Errc::kNotFound), move);
    if (!outcome.refused() || outcome.reason() != Errc::kNotFound) return outcome;
    const Outcome queued = queue_delayed(target, work, delay);
    if (queued || queued.refused()) return queued.refused() ? queued : Outcome(false);
  }
}

Outcome WorkCore::cancel(Work& work, Wait wait) noexcept {
  if (wait == Wait::kForRun && forked()) return Outcome::refused(Errc::kStopped);
  return with_shard(work, Outcome(false),
                    [&](std::unique_lock<Shard>& lock, Shard& shard, std::uint64_t state) -> std::optional<Outcome> {
                      const bool pending = is_pending(state);
                      if (wait == Wait::kForRun && would_deadlock_locked(shard, work, false)) {
                        return Outcome::refused(Errc::kWouldDeadlock);
                      }
                      Runner* const runner = wait == Wait::kForRun ? shard.running_locked(work) : nullptr;
                      if (!pending && runner == nullptr) return Outcome(false);
                      if (pending) shard.unlink_locked(work);
                      // In one step, lest the run queues its work again in between.
                      if (!leave_pending(work, pending, runner != nullptr ? Work::kCanceling : 0)) return std::nullopt;
                      if (runner != nullptr) wait_for_run(lock, shard, *runner);
                      return Outcome(pending);
                    });
}

Outcome WorkCore::disable(Work& work, Wait wait) noexcept {
  if (wait == Wait::kForRun && forked()) return Outcome::refused(Errc::kStopped);
  std::uint64_t unowned = 0;
  work.state_.compare_exchange_strong(unowned, shards_.front()->idle_state_);
  return with_shard(work, Outcome(false),
                    [&](std::unique_lock<Shard>& lock, Shard& shard, std::uint64_t state) -> std::optional<Outcome> {
                      const bool pending = is_pending(state);
                      if (wait == Wait::kForRun && would_deadlock_locked(shard, work, false)) {
                        return Outcome::refused(Errc::kWouldDeadlock);
                      }
                      if (work.disable_depth_ == std::numeric_limits<std::uint16_t>::max()) {
                        return Outcome::refused(Errc::kOverflow);
                      }
                      if (pending) shard.unlink_locked(work);
                      Runner* const runner = wait == Wait::kForRun ? shard.running_locked(work) : nullptr;
                      if (!leave_pending(work, pending, Work::kDisabled)) return std::nullopt;
                      ++work.disable_depth_;
                      if (runner != nullptr) wait_for_run(lock, shard, *runner);
                      return Outcome(pending);
                    });
}

Outcome WorkCore::enable(Work& work) noexcept {
  return with_shard(work, Outcome::refused(Errc::kInvalidArgument),
                    [&](std::unique_lock<Shard>&, Shard&, std::uint64_t) -> std::optional<Outcome> {
                      if (work.disable_depth_ == 0) return Outcome::refused(Errc::kInvalidArgument);
                      if (--work.disable_depth_ != 0) return Outcome(false);
                      work.state_.fetch_and(~Work::kDisabled);
                      return Outcome(true);
                    });
}

Outcome WorkCore::flush_work(Work& work) noexcept {
  if (forked()) return Outcome::refused(Errc::kStopped);
  return with_shard(work, Outcome(false),
                    [&](std::unique_lock<Shard>& lock, Shard& shard, std::uint64_t state) -> std::optional<Outcome> {
                      const bool pending = is_pending(state);
                      Runner* const runner = shard.running_locked(work);
                      if (!pending && runner == nullptr) return Outcome(false);
                      if (would_deadlock_locked(shard, work, pending)) return Outcome::refused(Errc::kWouldDeadlock);
                      Waiter waiter;
                      if (pending) {
                        if (work.place_ == Work::Place::kTimer) {
                          shard.unlink_locked(work);
                          shard.expire_locked();
                          shard.link_back_locked(work);
                        }
                        work.watched_ = true;
                        waiter.ticket = work.ticket_;
                      } else {
                        runner->watched = true;
                        waiter.ticket = runner->ticket;
                      }
                      wait_locked(lock, shard, waiter);
                      return Outcome(true);
                    });
}

// Does the calling thread run what the wait for `work` would wait for?
bool WorkCore::would_deadlock_locked(Shard& shard, const Work& work, bool pending) noexcept {
  if (!on_own_thread()) return false;
  for (const Runner& runner : shard.runners_) {
    if (runner.ticket == 0 || ::pthread_equal(runner.thread, ::pthread_self()) == 0) continue;
    // Its own run; or one that could start only after this one.
    if (runner.ticket == work.run_ticket_ || (pending && shard.seats_ == 1)) return true;
  }
  return false;
}

// The mark of a cancellation is the runner's, and ends with the run; kCanceling in the work only says that it is worth
// a look.
void WorkCore::wait_for_run(std::unique_lock<Shard>& lock, Shard& shard, Runner& runner) noexcept {
  runner.canceling = true;
  runner.watched = true;
  Waiter waiter{.ticket = runner.ticket, .may_stand_in = false};
  wait_locked(lock, shard, waiter);
}

// The work may be gone when this returns. The waiter's node is alive and untouched: see I5.
void WorkCore::wait_locked(std::unique_lock<Shard>& lock, Shard& shard, Waiter& waiter) noexcept {
  shard.waiters_.push_back(waiter);
  if (waiter.what == Waiter::For::kAllUpTo) ++shard.flushers_;
  lock.unlock();
  const ScopedBlocking blocking;
  lock.lock();
  while (!waiter.done) {
    const std::uint32_t seen = shard.progress_.load(std::memory_order_relaxed);
    lock.unlock();
    if (!waiter.may_stand_in || !stand_in(shard)) futex_wait(shard.progress_, seen);
    lock.lock();
  }
  lock.unlock();
}

void WorkCore::call_for_help(Shard& shard) noexcept {
  const std::lock_guard lock(shard);
  shard.progress_.fetch_add(1, std::memory_order_relaxed);
  shard.wake_waiters_ = true;
}

bool WorkCore::run_one_here(Shard& shard) noexcept {
  Runner runner{.thread = ::pthread_self()};
  std::unique_lock lock(shard);
  shard.attach_locked(runner);
  Work* const work = shard.pop_locked(runner);
  if (work != nullptr) {
    lock.unlock();
    const WorkCore* const outer = std::exchange(t_own_core, this);
    Shard::call(*work);
    t_own_core = outer;
    lock.lock();
    shard.finish_locked(runner);
  }
  shard.detach_locked(runner);
  return work != nullptr;
}

bool WorkCore::flush_shard(Shard& shard) noexcept {
  std::unique_lock lock(shard);
  shard.expire_locked();
  shard.take_inbox_locked();
  Waiter waiter{.ticket = shard.next_ticket_ - 1, .what = Waiter::For::kAllUpTo};
  if (shard.oldest_locked() > waiter.ticket) return false;
  wait_locked(lock, shard, waiter);
  return true;
}

Outcome WorkCore::flush() noexcept {
  if (forked()) return Outcome::refused(Errc::kStopped);
  if (on_own_thread()) return Outcome::refused(Errc::kWouldDeadlock);
  bool waited = false;
  for (const std::unique_ptr<Shard>& shard : shards_) waited |= flush_shard(*shard);
  return Outcome(waited);
}

bool WorkCore::all_idle() noexcept {
  bool idle = true;
  for (const std::unique_ptr<Shard>& shard : shards_) shard->lock();
  for (const std::unique_ptr<Shard>& shard : shards_) idle = idle && shard->idle_locked();
  for (const std::unique_ptr<Shard>& shard : shards_) shard->unlock();
  return idle;
}

Outcome WorkCore::drain() noexcept {
  if (forked()) return Outcome::refused(Errc::kStopped);
  if (on_own_thread()) return Outcome::refused(Errc::kWouldDeadlock);
  gate_.fetch_add(1, std::memory_order_seq_cst);
  bool waited = false;
  do {
    for (const std::unique_ptr<Shard>& shard : shards_) waited |= flush_shard(*shard);
  } while (!all_idle());
  gate_.fetch_sub(1, std::memory_order_seq_cst);
  return Outcome(waited);
}

WorkState WorkCore::state(Work& work) noexcept {
  WorkState state;
  (void)with_shard(
      work, Outcome(false), [&](std::unique_lock<Shard>&, Shard& shard, std::uint64_t seen) -> std::optional<Outcome> {
        const bool pending = is_pending(seen);
        const Runner* const runner = shard.running_locked(work);
        state.armed = pending && work.place_ == Work::Place::kTimer;
        state.queued = pending && !state.armed;
        state.running = runner != nullptr;
        state.canceling = runner != nullptr && runner->canceling;
        state.disable_depth = work.disable_depth_;
        for (const Waiter& waiter : shard.waiters_) {
          const bool its =
              (pending && waiter.ticket == work.ticket_) || (runner != nullptr && waiter.ticket == runner->ticket);
          if (its && waiter.what == Waiter::For::kInstance) ++state.waiters;
        }
        return Outcome(true);
      });
  return state;
}

Outcome WorkCore::adopt(Shard& shard, Work* work) noexcept {
  if (work == nullptr) return Outcome::refused(Errc::kNoMemory);
  const Outcome outcome = queue(shard, *work);
  if (!outcome) Shard::drop(*work);
  return outcome;
}

Outcome WorkCore::adopt(Shard& shard, DelayedWork* work, Clock::Duration delay) noexcept {
  if (work == nullptr) return Outcome::refused(Errc::kNoMemory);
  const Outcome outcome = queue_delayed(shard, *work, delay);
  if (!outcome) Shard::drop(*work);
  return outcome;
}

}  // namespace stasis::detail
