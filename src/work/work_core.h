// SPDX-License-Identifier: Apache-2.0
// What Worker and WorkQueue have in common: shards that hold works, and the calls of the contract table on them.
//
// A Shard is a FIFO of works and a timer wheel under one lock. A Worker has one shard and one thread, a WorkQueue a
// shard per CPU and as many threads as it needs. A WorkCore is a set of shards with one identity.
//
// The way of a work: a producer claims it by setting kPending in its state word (one atomic read-modify-write, also
// when it finds the bit set, so that "false" orders memory), then pushes it on the shard's inbox, a stack. The thread
// that runs out of works takes the whole stack with one exchange and turns it into the batch, a chain in order of
// queueing; so producers and worker don't fight over a line for each work. Under the lock it pops a work, notes its
// ticket as running and clears kPending, all in one critical section: nobody ever sees it neither pending nor running.
// After the call it does not touch the work. Who cancels, moves or flushes takes the lock and has inbox and batch
// linked into the list, from which any work can be taken in O(1); it then belongs to its owner alone.
//
// Invariants (under the lock):
//  I1  Tickets number the queued instances of a shard in their order: list < batch < inbox (which has none yet).
//  I2  A pending work is on its way to the inbox, in inbox or batch (place kNowhere), in list_ (kList), in the wheel
//      (kTimer), or is some runner's `again` (kAgain).
//  I3  A work runs iff a runner's ticket equals its run_ticket_. Tickets are not reused, so an object that was freed by
//      its own function and came back at the same address is not mistaken for the old one.
//  I4  A work is in at most one shard; the bits in its state word say which, and change only under that shard's lock
//      and while the work neither runs nor is to be found there.
//  I5  A waiter's node is touched only under the lock, and not after it is marked done.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "stasis/clock.h"
#include "stasis/list.h"
#include "stasis/work.h"
#include "work/futex.h"
#include "work/timer_wheel.h"

namespace stasis::detail {

// A thread's seat at the shard that it serves.
struct Runner {
  std::uint64_t ticket = 0;  // of the instance it runs; 0: none
  Work* again = nullptr;     // the work it runs, queued again and come to the front meanwhile
  bool watched = false;      // somebody waits for the end of the run
  bool canceling = false;    // the work may not be queued until the run ends
  pthread_t thread{};
  ListHook hook{};
};

// Somebody who waits for the end of one instance, or of all up to a ticket.
struct Waiter {
  enum class For : std::uint8_t { kInstance, kAllUpTo };
  std::uint64_t ticket = 0;
  For what = For::kInstance;
  bool done = false;
  bool may_stand_in = true;  // run works itself where no thread can be started
  ListHook hook{};
};

// Lockable (BasicLockable): unlock() also does the wake-ups that became necessary meanwhile, outside the lock.
// Functions named *_locked need the lock.
class alignas(64) Shard {
 public:
  // `seats`: how many works of this shard can run at once.
  Shard(WorkCore& core, std::uint64_t idle_state, unsigned seats);
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  void lock() noexcept { lock_.lock(); }
  void unlock() noexcept;

  // The thread side.
  void attach_locked(Runner& runner) noexcept { runners_.push_back(runner); }
  void detach_locked(Runner& runner) noexcept { runners_.erase(runner); }
  // The next work to run, marked as running on `runner` and no longer pending; null: nothing there.
  Work* pop_locked(Runner& runner) noexcept;
  static void call(Work& work) noexcept { work.function_(work); }
  void finish_locked(Runner& runner) noexcept;
  // Arms the bell: from now on whoever adds a work to the empty shard wakes. False: there is something to do already.
  bool prepare_sleep_locked() noexcept;
  void cancel_sleep_locked() noexcept;
  // After prepare_sleep_locked() and without the lock: sleeps until the bell, a timer, `at_most`, or no reason.
  void sleep(Clock::Time at_most = Clock::kNever) noexcept;
  // Wakes the sleeper, if any. kNobody: no thread ever came here, or expect_nobody() said so.
  enum class Bell { kNoSleeper, kRung, kNobody };
  Bell ring() noexcept;
  // Only a sleeper; true if there was one.
  bool ring_if_asleep() noexcept;
  void expect_nobody() noexcept;
  // No works are accepted any more. False: there are some left to run.
  bool close_locked() noexcept;
  // After closing: disarms every timer; owned works are freed. Returns how many. Takes the lock.
  std::size_t abandon() noexcept;
  // Frees an owned work that will not run.
  static void drop(Work& work) noexcept;

  // Anything queued? A hint without the lock.
  bool backlogged() const noexcept {
    return stocked_.load(std::memory_order_seq_cst) || !inbox_empty(inbox_.load(std::memory_order_seq_cst));
  }
  bool timer_due() const noexcept;
  void expire_locked() noexcept;
  std::size_t index() const noexcept { return (idle_state_ >> Work::kShardShift) & 0xFFFF; }
  bool idle_locked() noexcept;
  List<Runner, &Runner::hook>& runners_locked() noexcept { return runners_; }

 private:
  friend class WorkCore;
  static constexpr std::uint64_t kNoTicket = std::numeric_limits<std::uint64_t>::max();

  static Work* closed() noexcept;
  static bool inbox_empty(const Work* head) noexcept { return head == nullptr || head == closed(); }

  // The producer side, without the lock. False: closed.
  bool push(Work& work) noexcept;
  void expire_if_due() noexcept;

  void take_inbox_locked() noexcept;
  void link_batch_locked() noexcept;
  void push_batch_locked(Work& work) noexcept;
  void link_back_locked(Work& work) noexcept;
  void link_by_ticket_locked(Work& work) noexcept;
  Work* take_front_locked(std::uint64_t& ticket) noexcept;
  // Puts a claimed work where `delay` says. Refused: closed or out of memory; the work is no longer pending then.
  Outcome put_locked(Work& work, Clock::Duration delay) noexcept;
  bool arm_locked(DelayedWork& work, Clock::Duration delay) noexcept;
  void want_runner_locked() noexcept;
  void set_stocked_locked() noexcept;
  void update_stocked_locked() noexcept;
  // Takes a work that is in list, wheel or `again` out of there; kPending stays.
  void unlink_locked(Work& work) noexcept;
  Runner* running_locked(const Work& work) noexcept;
  std::uint64_t oldest_locked() noexcept;
  void waiter_done_locked(Waiter& waiter) noexcept;
  void instance_gone_locked(std::uint64_t ticket) noexcept;
  void check_flushes_locked() noexcept;
  static bool is_owned(const Work& work) noexcept;

  WorkCore& core_;
  const std::uint64_t idle_state_;  // state word of an idle work at this shard
  const unsigned seats_;
  // Read by every producer, rarely written.
  std::atomic<std::int64_t> next_expiry_{TimerWheel::kNever};
  std::atomic<std::uint32_t> bell_{0};  // 1: a thread sleeps on it

  alignas(64) std::atomic<Work*> inbox_{nullptr};

  alignas(64) FutexLock lock_;
  bool wake_waiters_ = false;  // to be done by unlock()
  bool ring_ = false;
  std::atomic<bool> stocked_{false};  // list or batch are not empty
  Work* batch_ = nullptr;             // oldest first, through Work::next_
  Work* batch_last_ = nullptr;
  std::uint64_t batch_ticket_ = 1;  // of *batch_; next_ticket_ when there is none
  std::uint64_t next_ticket_ = 1;
  List<Work, &Work::hook_> list_;
  List<Runner, &Runner::hook> runners_;
  List<Waiter, &Waiter::hook> waiters_;
  std::size_t flushers_ = 0;  // waiters for kAllUpTo
  std::atomic<std::int64_t> sleep_until_{
      TimerWheel::kNever};                  // of the sleeper; 0: nobody sleeps; written under the lock
  std::atomic<std::uint32_t> progress_{0};  // what waiters sleep on; changes when one of them is done
  TimerWheel wheel_;
};

// A thread whose pool wants to know when it blocks.
class Blockable {
 public:
  virtual void block() noexcept = 0;
  virtual void unblock() noexcept = 0;
  // The calling thread's, null if it has none.
  static Blockable* current() noexcept;
  static void set_current(Blockable* blockable) noexcept;

 protected:
  ~Blockable() = default;
};

// The calls of the contract. Thread-safe. What each returns is said at Worker.
class WorkCore {
 public:
  enum class Wait { kNo, kForRun };

  WorkCore(Clock& clock, unsigned shards, unsigned seats);
  WorkCore(const WorkCore&) = delete;
  WorkCore& operator=(const WorkCore&) = delete;
  virtual ~WorkCore();

  Outcome queue(Shard& shard, Work& work) noexcept;
  Outcome queue_delayed(Shard& shard, DelayedWork& work, Clock::Duration delay) noexcept;
  Outcome mod_delayed(Shard& shard, DelayedWork& work, Clock::Duration delay) noexcept;
  Outcome cancel(Work& work, Wait wait) noexcept;
  Outcome disable(Work& work, Wait wait) noexcept;
  Outcome enable(Work& work) noexcept;
  Outcome flush_work(Work& work) noexcept;
  Outcome flush() noexcept;
  Outcome drain() noexcept;
  WorkState state(Work& work) noexcept;
  // Queues a work made by new; frees it when refused, or when there is none.
  Outcome adopt(Shard& shard, Work* work) noexcept;
  Outcome adopt(Shard& shard, DelayedWork* work, Clock::Duration delay) noexcept;

  std::size_t shard_count() const noexcept { return shards_.size(); }
  Shard& shard(std::size_t index) noexcept { return *shards_[index]; }
  Clock& clock() const noexcept { return clock_; }
  // From now on nothing is accepted (kStopped). True for the first caller.
  bool close_gate() noexcept;
  bool gate_closed() const noexcept { return (gate_.load(std::memory_order_seq_cst) & kGateClosed) != 0; }
  // Is this one of the core's own threads? enter_thread() says so for the calling thread.
  bool on_own_thread() const noexcept;
  void enter_thread() const noexcept;
  // Is this the child of a fork(), which has none of the threads?
  bool forked() const noexcept;

 protected:
  // A shard got its first work, or an earlier timer: somebody has to run it. Without a lock.
  virtual void wake(Shard& shard) noexcept = 0;
  // Somebody waits for works of that shard: if nobody is there to run them and no thread can be had, one of them is run
  // here. False: none was. Without a lock.
  virtual bool stand_in(Shard& /*shard*/) noexcept { return false; }
  // Makes those who wait at the shard look again whether to stand in.
  static void call_for_help(Shard& shard) noexcept;
  // Runs one work here, if there is any.
  bool run_one_here(Shard& shard) noexcept;
  // Threads that sleep on no work of their own but could take another shard's.
  std::atomic<int> idle_thieves_{0};

 private:
  friend class Shard;
  static constexpr std::uint32_t kGateClosed = 0x8000'0000U;  // the other bits count drainers

  struct Claim {
    Shard* shard;     // null: not claimed
    Outcome outcome;  // then
  };
  Claim claim(Shard& target, Work& work) noexcept;
  Claim claim_slow(Shard& target, Work& work) noexcept;
  Shard* claim_elsewhere(Shard& target, Work& work, std::uint64_t seen) noexcept;
  bool forget_canceling(Work& work, std::uint64_t seen) noexcept;
  Outcome gate_refusal() const noexcept;
  static void clear_pending(Work& work) noexcept;
  static bool is_pending(std::uint64_t state) noexcept { return (state & Work::kPending) != 0; }
  Shard& shard_in(std::uint64_t state) noexcept { return *shards_[(state >> Work::kShardShift) & 0xFFFF]; }
  static std::uint32_t owner_in(std::uint64_t state) noexcept {
    return static_cast<std::uint32_t>(state >> Work::kOwnerShift);
  }
  // Calls `action(lock, shard, state)` with the lock of the shard that has the work and the work found there if it is
  // pending in `state`, its state word, until that returns an Outcome. A work of no owner: `unowned`. An idle work may
  // be claimed while the action runs: whoever claims or marks it does so from `state`, or looks again.
  template <class Action>
  Outcome with_shard(Work& work, Outcome unowned, Action action) noexcept;
  bool would_deadlock_locked(Shard& shard, const Work& work, bool pending) noexcept;
  static bool leave_pending(Work& work, bool pending, std::uint64_t flags) noexcept;
  void wait_for_run(std::unique_lock<Shard>& lock, Shard& shard, Runner& runner) noexcept;
  void wait_locked(std::unique_lock<Shard>& lock, Shard& shard, Waiter& waiter) noexcept;
  bool flush_shard(Shard& shard) noexcept;
  bool all_idle() noexcept;

  Clock& clock_;
  const std::uint32_t id_;
  const int pid_;
  std::atomic<std::uint32_t> gate_{0};
  std::vector<std::unique_ptr<Shard>> shards_;
};

inline bool Shard::push(Work& work) noexcept {
  Work* head = inbox_.load(std::memory_order_relaxed);
  do {
    if (head == closed()) return false;
    work.next_ = head;
  } while (!inbox_.compare_exchange_weak(head, &work, std::memory_order_seq_cst, std::memory_order_relaxed));
  // Whoever found the inbox empty wakes; the order against prepare_sleep_locked(), which arms and then looks, is total.
  if (head == nullptr &&
      (bell_.load(std::memory_order_seq_cst) != 0 || core_.idle_thieves_.load(std::memory_order_seq_cst) > 0)) {
    core_.wake(*this);
  }
  return true;
}

inline WorkCore::Claim WorkCore::claim(Shard& target, Work& work) noexcept {
  __builtin_prefetch(&target.inbox_, 1);
  std::uint64_t expected = target.idle_state_;
  if (work.state_.compare_exchange_strong(expected, target.idle_state_ | Work::kPending)) [[likely]] {
    return {&target, Outcome(true)};
  }
  return claim_slow(target, work);
}

inline Outcome WorkCore::queue(Shard& shard, Work& work) noexcept {
  if (gate_.load(std::memory_order_relaxed) != 0) [[unlikely]] {
    if (const Outcome refusal = gate_refusal(); refusal.refused()) return refusal;
  }
  // A timer that fell due before this call precedes this work.
  if (shard.next_expiry_.load(std::memory_order_relaxed) != TimerWheel::kNever) [[unlikely]]
    shard.expire_if_due();
  const Claim claimed = claim(shard, work);
  if (claimed.shard == nullptr) return claimed.outcome;
  if (!claimed.shard->push(work)) [[unlikely]] {
    clear_pending(work);
    return Outcome::refused(Errc::kStopped);
  }
  return Outcome(true);
}

}  // namespace stasis::detail
