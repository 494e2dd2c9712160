// SPDX-License-Identifier: Apache-2.0
#include <climits>
#include <utility>

#include "work/work_core.h"

namespace stasis::detail {
namespace {

std::int64_t nanoseconds(Clock::Time time) noexcept { return time.time_since_epoch().count(); }

constexpr std::uint32_t kAwake = 0;
constexpr std::uint32_t kAsleep = 1;
// No thread has come yet: whoever adds the first work or timer has to see to it.
constexpr std::uint32_t kNobody = 2;

}  // namespace

Shard::Shard(WorkCore& core, std::uint64_t idle_state, unsigned seats)
    : core_(core), idle_state_(idle_state), seats_(seats), bell_(kNobody) {}

// What the inbox of a closed shard holds instead of works; only its address matters.
Work* Shard::closed() noexcept {
  static constinit Work mark([](Work&) {});
  return &mark;
}

void Shard::unlock() noexcept {
  const bool waiters = std::exchange(wake_waiters_, false);
  const bool ring = std::exchange(ring_, false);
  lock_.unlock();
  if (waiters) [[unlikely]]
    futex_wake(progress_, INT_MAX);
  if (ring) [[unlikely]]
    core_.wake(*this);
}

Shard::Bell Shard::ring() noexcept {
  const std::uint32_t before = bell_.exchange(kAwake, std::memory_order_seq_cst) & ~Clock::kClockBit;
  if (before == kAwake) return Bell::kNoSleeper;
  if (before == kNobody) return Bell::kNobody;
  futex_wake(bell_, 1);
  return Bell::kRung;
}

bool Shard::ring_if_asleep() noexcept {
  std::uint32_t before = bell_.load(std::memory_order_seq_cst);
  while ((before & ~Clock::kClockBit) == kAsleep) {
    if (!bell_.compare_exchange_weak(before, kAwake, std::memory_order_seq_cst)) continue;
    futex_wake(bell_, 1);
    return true;
  }
  return false;
}

void Shard::expect_nobody() noexcept { bell_.store(kNobody, std::memory_order_seq_cst); }

bool Shard::prepare_sleep_locked() noexcept {
  sleep_until_ = next_expiry_.load(std::memory_order_relaxed);
  bell_.store(kAsleep, std::memory_order_seq_cst);
  if (stocked_.load(std::memory_order_relaxed) || !inbox_empty(inbox_.load(std::memory_order_seq_cst)) ||
      core_.gate_closed()) {
    cancel_sleep_locked();
    return false;
  }
  return true;
}

void Shard::cancel_sleep_locked() noexcept {
  bell_.store(kAwake, std::memory_order_seq_cst);
  sleep_until_ = 0;
}

void Shard::sleep(Clock::Time at_most) noexcept {
  const Clock::Time until =
      std::min(at_most, Clock::Time(Clock::Duration(sleep_until_.load(std::memory_order_relaxed))));
  core_.clock().sleep(bell_, kAsleep, until);
  bell_.store(kAwake, std::memory_order_seq_cst);
}

// ---- adding

void Shard::expire_if_due() noexcept {
  if (nanoseconds(core_.clock().now()) < next_expiry_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(*this);
  expire_locked();
}

void Shard::expire_locked() noexcept {
  const std::int64_t due = next_expiry_.load(std::memory_order_relaxed);
  if (due == TimerWheel::kNever) return;
  const std::int64_t now = nanoseconds(core_.clock().now());
  if (now < due) return;
  take_inbox_locked();  // what was queued before the timer was seen to be due precedes it
  const TimerWheel::Chain chain = wheel_.expire(now);
  for (TimerNode* timer = chain.first; timer != nullptr;) {
    auto& work = static_cast<DelayedWork&>(*timer);
    timer = timer->next;
    work.place_ = Work::Place::kNowhere;
    push_batch_locked(work);
  }
  next_expiry_.store(wheel_.next_expiry(), std::memory_order_relaxed);
  if (chain.count > 0) want_runner_locked();
}

void Shard::want_runner_locked() noexcept {
  if (bell_.load(std::memory_order_seq_cst) != kAwake || core_.idle_thieves_.load(std::memory_order_seq_cst) > 0) {
    ring_ = true;
  }
}

void Shard::set_stocked_locked() noexcept {
  if (!stocked_.load(std::memory_order_relaxed)) stocked_.store(true, std::memory_order_seq_cst);
}

void Shard::push_batch_locked(Work& work) noexcept {
  work.next_ = nullptr;
  (batch_ != nullptr ? batch_last_->next_ : batch_) = &work;
  batch_last_ = &work;
  ++next_ticket_;
  set_stocked_locked();
}

void Shard::take_inbox_locked() noexcept {
  if (inbox_empty(inbox_.load(std::memory_order_relaxed))) return;
  Work* const newest = inbox_.exchange(nullptr, std::memory_order_seq_cst);
  Work* oldest = nullptr;
  for (Work* work = newest; work != nullptr;) {
    Work* const next = std::exchange(work->next_, oldest);
    oldest = work;
    work = next;
    ++next_ticket_;
  }
  (batch_ != nullptr ? batch_last_->next_ : batch_) = oldest;
  batch_last_ = newest;
  set_stocked_locked();
}

void Shard::link_batch_locked() noexcept {
  while (batch_ != nullptr) {
    Work& work = *std::exchange(batch_, batch_->next_);
    work.ticket_ = batch_ticket_++;
    work.place_ = Work::Place::kList;
    list_.push_back(work);
  }
}

void Shard::link_back_locked(Work& work) noexcept {
  take_inbox_locked();
  link_batch_locked();
  work.ticket_ = next_ticket_++;
  batch_ticket_ = next_ticket_;
  work.place_ = Work::Place::kList;
  list_.push_back(work);
  set_stocked_locked();
  want_runner_locked();
}

// For a work that was taken off the front: only few can have overtaken it.
void Shard::link_by_ticket_locked(Work& work) noexcept {
  auto position = list_.begin();
  while (position != list_.end() && position->ticket_ < work.ticket_) ++position;
  list_.insert(position, work);
  work.place_ = Work::Place::kList;
  set_stocked_locked();
}

Outcome Shard::put_locked(Work& work, Clock::Duration delay) noexcept {
  Errc failure{};
  if (inbox_.load(std::memory_order_relaxed) == closed()) {
    failure = Errc::kStopped;
  } else if (delay <= Clock::Duration::zero()) {
    expire_locked();
    link_back_locked(work);
    return Outcome(true);
  } else if (arm_locked(static_cast<DelayedWork&>(work), delay)) {
    return Outcome(true);
  } else {
    failure = Errc::kNoMemory;
  }
  core_.clear_pending(work);
  return Outcome::refused(failure);
}

bool Shard::arm_locked(DelayedWork& work, Clock::Duration delay) noexcept {
  const Clock::Time now = core_.clock().now();
  const std::int64_t expiry = nanoseconds(Clock::after(now, delay));
  if (!wheel_.insert(work, expiry, nanoseconds(now))) return false;
  work.place_ = Work::Place::kTimer;
  if (expiry < next_expiry_.load(std::memory_order_relaxed)) next_expiry_.store(expiry, std::memory_order_relaxed);
  // The sleeper would sleep too long.
  if (expiry < sleep_until_.load(std::memory_order_relaxed)) {
    sleep_until_.store(expiry, std::memory_order_relaxed);
    ring_ = true;
  }
  return true;
}

// ---- taking

Work* Shard::take_front_locked(std::uint64_t& ticket) noexcept {
  Work* work = list_.pop_front();
  if (work != nullptr) {
    ticket = work->ticket_;
    work->place_ = Work::Place::kNowhere;
  } else {
    if (batch_ == nullptr) take_inbox_locked();
    if (batch_ == nullptr) return nullptr;
    work = std::exchange(batch_, batch_->next_);
    ticket = batch_ticket_++;
  }
  update_stocked_locked();
  return work;
}

void Shard::update_stocked_locked() noexcept {
  if (batch_ == nullptr && list_.empty() && stocked_.load(std::memory_order_relaxed)) {
    stocked_.store(false, std::memory_order_relaxed);
  }
}

Work* Shard::pop_locked(Runner& runner) noexcept {
  sleep_until_.store(0, std::memory_order_relaxed);
  expire_locked();
  std::uint64_t ticket = 0;
  Work* work = nullptr;
  for (;;) {
    work = take_front_locked(ticket);
    if (work == nullptr) return nullptr;
    if (seats_ == 1) break;
    Runner* const other = running_locked(*work);
    if (other == nullptr) break;
    // Never two runs of one work at once: this one waits for the run that goes on.
    work->ticket_ = ticket;
    work->place_ = Work::Place::kAgain;
    other->again = work;
  }
  runner.ticket = ticket;
  runner.watched = std::exchange(work->watched_, false);
  runner.canceling = false;
  work->run_ticket_ = ticket;
  // A read-modify-write: whoever found kPending set before, and was told "false", has its stores seen by this run.
  work->state_.fetch_and(~Work::kPending, std::memory_order_acq_rel);
  return work;
}

void Shard::finish_locked(Runner& runner) noexcept {
  const std::uint64_t ticket = std::exchange(runner.ticket, 0);
  if (Work* const again = std::exchange(runner.again, nullptr)) {
    link_by_ticket_locked(*again);
    want_runner_locked();
  }
  if (runner.watched) [[unlikely]]
    instance_gone_locked(ticket);
  if (flushers_ > 0) [[unlikely]]
    check_flushes_locked();
}

void Shard::unlink_locked(Work& work) noexcept {
  switch (work.place_) {
    case Work::Place::kList:
      list_.erase(work);
      update_stocked_locked();
      break;
    case Work::Place::kTimer:
      wheel_.erase(static_cast<DelayedWork&>(work));
      // next_expiry_ may stay too early: that costs a look, not more.
      if (wheel_.empty()) next_expiry_.store(TimerWheel::kNever, std::memory_order_relaxed);
      break;
    case Work::Place::kAgain:
      for (Runner& runner : runners_) {
        if (runner.again == &work) runner.again = nullptr;
      }
      break;
    case Work::Place::kNowhere:
    case Work::Place::kDropped:
      return;
  }
  work.place_ = Work::Place::kNowhere;
  if (std::exchange(work.watched_, false)) instance_gone_locked(work.ticket_);
  if (flushers_ > 0) check_flushes_locked();
}

bool Shard::close_locked() noexcept {
  if (stocked_.load(std::memory_order_relaxed)) return false;
  Work* head = nullptr;
  return inbox_.compare_exchange_strong(head, closed(), std::memory_order_seq_cst) || head == closed();
}

std::size_t Shard::abandon() noexcept {
  Work* owned = nullptr;
  std::size_t count = 0;
  {
    const std::lock_guard lock(*this);
    const TimerWheel::Chain chain = wheel_.clear();
    next_expiry_.store(TimerWheel::kNever, std::memory_order_relaxed);
    count = chain.count;
    for (TimerNode* timer = chain.first; timer != nullptr;) {
      auto& work = static_cast<DelayedWork&>(*timer);
      timer = timer->next;
      work.place_ = Work::Place::kNowhere;
      if (is_owned(work)) {
        work.next_ = std::exchange(owned, &work);
      } else {
        core_.clear_pending(work);
      }
    }
  }
  // Without the lock: a destructor of the caller's may call back.
  while (owned != nullptr) drop(*std::exchange(owned, owned->next_));
  return count;
}

bool Shard::is_owned(const Work& work) noexcept {
  return work.kind_ == Work::Kind::kOwned || work.kind_ == Work::Kind::kOwnedDelayed;
}

void Shard::drop(Work& work) noexcept {
  work.place_ = Work::Place::kDropped;
  work.function_(work);
}

// ---- looking

bool Shard::timer_due() const noexcept {
  const std::int64_t due = next_expiry_.load(std::memory_order_relaxed);
  return due != TimerWheel::kNever && nanoseconds(core_.clock().now()) >= due;
}

Runner* Shard::running_locked(const Work& work) noexcept {
  if (work.run_ticket_ == 0) return nullptr;
  for (Runner& runner : runners_) {
    if (runner.ticket == work.run_ticket_) return &runner;
  }
  return nullptr;
}

bool Shard::idle_locked() noexcept {
  return inbox_empty(inbox_.load(std::memory_order_seq_cst)) && oldest_locked() == kNoTicket;
}

// The lowest ticket that is queued or running.
std::uint64_t Shard::oldest_locked() noexcept {
  std::uint64_t oldest = kNoTicket;
  if (!list_.empty()) {
    oldest = list_.front().ticket_;
  } else if (batch_ != nullptr) {
    oldest = batch_ticket_;
  }
  for (const Runner& runner : runners_) {
    if (runner.ticket != 0) oldest = std::min(oldest, runner.ticket);
    if (runner.again != nullptr) oldest = std::min(oldest, runner.again->ticket_);
  }
  return oldest;
}

void Shard::waiter_done_locked(Waiter& waiter) noexcept {
  waiters_.erase(waiter);
  waiter.done = true;
  progress_.fetch_add(1, std::memory_order_relaxed);
  wake_waiters_ = true;
}

void Shard::instance_gone_locked(std::uint64_t ticket) noexcept {
  for (Waiter& waiter : waiters_.safe()) {
    if (waiter.what == Waiter::For::kInstance && waiter.ticket == ticket) waiter_done_locked(waiter);
  }
}

void Shard::check_flushes_locked() noexcept {
  const std::uint64_t oldest = oldest_locked();
  for (Waiter& waiter : waiters_.safe()) {
    if (waiter.what != Waiter::For::kAllUpTo || waiter.ticket >= oldest) continue;
    --flushers_;
    waiter_done_locked(waiter);
  }
}

}  // namespace stasis::detail
