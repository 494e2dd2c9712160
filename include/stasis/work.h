// SPDX-License-Identifier: Apache-2.0
// Work and DelayedWork: a function to be called later, once per queueing, on a Worker or a WorkQueue.
//
// Both are intrusive: the caller owns the object, embeds it (as a base) in what the function works on, and may make it
// static without any initialisation at run time:
//
//   struct Flusher : Work {
//     Flusher() : Work(method<&Flusher::run>) {}
//     void run();                                    // on the worker's thread
//   };
//   constinit Work tick([](Work&) { ... });          // like the kernel's DECLARE_WORK
//
// States: idle; pending = armed (a DelayedWork whose timer runs) or queued; running; running and pending again;
// disabled. A work is taken off its pending state before its function is called, so the function may queue its own work
// again, and after the call the library never touches the work: the function may free it.
//
// A work belongs to the Worker or WorkQueue it was first queued on; handing it to another is refused with
// Errc::kWrongWorker until it is reset(). It must be idle when it is destroyed, and its function must not throw.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

#include "stasis/clock.h"
#include "stasis/list.h"
#include "stasis/result.h"

namespace stasis {

namespace detail {
class Shard;
class WorkCore;
}  // namespace detail

// What a call on a work did: the kernel's return value, and where the call was refused, why.
//
//   if (worker.queue(work)) ...                          // true: it was idle and is now queued
//   if (const Outcome o = worker.cancel_sync(work); o.refused()) report(o.error());
//   const bool was_pending = STASIS_TRY(worker.cancel_sync(work).result());
class Outcome {
 public:
  constexpr explicit Outcome(bool value) noexcept : value_(value) {}
  // Nothing was done. Reasons: kWrongWorker, kWouldDeadlock, kDisabled, kDraining, kStopped, kNoMemory, kOverflow,
  // kInvalidArgument.
  static constexpr Outcome refused(Errc reason) noexcept {
    Outcome outcome(false);
    outcome.reason_ = reason;
    return outcome;
  }
  // The value in the contract table; false when refused.
  constexpr explicit operator bool() const noexcept { return value_; }
  constexpr bool refused() const noexcept { return reason_ != Errc{}; }
  // REQUIRES: refused().
  constexpr Errc reason() const noexcept { return reason_; }
  Error error() const;
  // The value, or the Error when refused.
  Result<bool> result() const;

 private:
  bool value_;
  Errc reason_{};
};

// A snapshot, for tests and reports: it may be old when it is looked at.
struct WorkState {
  bool armed = false;      // its timer runs
  bool queued = false;     // waits for its turn
  bool running = false;    // its function is being called
  bool canceling = false;  // running, and somebody in cancel_sync() or disable_sync() waits for the end of it
  std::uint32_t disable_depth = 0;
  std::uint32_t waiters = 0;  // threads in flush_work(), cancel_sync() or disable_sync() of it, asleep
  bool pending() const noexcept { return armed || queued; }
};

class Work {
 public:
  using Function = void (*)(Work&);

  constexpr explicit Work(Function function) noexcept : function_(function) {}
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  // Armed or queued? Any thread; may have changed on return.
  bool pending() const noexcept { return (state_.load(std::memory_order_acquire) & kPending) != 0; }
  // Forgets the worker it belongs to, so that it can be queued on another one. REQUIRES: not running. Refused with
  // kBusy while it is pending or disabled.
  Outcome reset() noexcept;

  // A Function that calls a member function of the class derived from Work.
  template <auto Method>
  static void method(Work& work) {
    call_method(Method, work);
  }

 protected:
  enum class Kind : std::uint8_t { kPlain = 0, kDelayed = 1, kOwned = 2, kOwnedDelayed = 3 };
  constexpr Work(Function function, Kind kind) noexcept : function_(function), kind_(kind) {}
  // In the function of an owned work: it will not run, and is only to be freed.
  bool being_dropped() const noexcept { return place_ == Place::kDropped; }

 private:
  friend class detail::Shard;
  friend class detail::WorkCore;

  // Where a pending work is to be found; guarded by the lock of its shard.
  enum class Place : std::uint8_t {
    kNowhere,  // not pending, or on its way through the inbox and the batch
    kList,
    kTimer,
    kAgain,  // behind its own current run
    kDropped,
  };

  // state_: flags, the shard it is or was last at (bits 16-31), and the identity of its owner (bits 32-63; 0: none
  // yet).
  static constexpr std::uint64_t kPending = 1;
  static constexpr std::uint64_t kCanceling = 2;  // perhaps; the shard knows
  static constexpr std::uint64_t kDisabled = 4;
  static constexpr unsigned kShardShift = 16;
  static constexpr unsigned kOwnerShift = 32;

  template <class T>
  static void call_method(void (T::*method)(), Work& work) {
    (static_cast<T&>(work).*method)();
  }

  std::atomic<std::uint64_t> state_{0};
  Function function_;
  Work* next_ = nullptr;          // in the inbox and the batch
  ListHook hook_{};               // in the list
  std::uint64_t ticket_ = 0;      // of the queued instance
  std::uint64_t run_ticket_ = 0;  // of the instance that ran last
  std::uint16_t disable_depth_ = 0;
  Kind kind_ = Kind::kPlain;
  Place place_ = Place::kNowhere;
  bool watched_ = false;  // somebody waits for the queued instance
};

namespace detail {

// A timer in a TimerWheel.
struct TimerNode {
  std::int64_t expiry = 0;  // nanoseconds of the worker's clock
  TimerNode* next = nullptr;
  std::uint32_t bucket = 0;
  std::uint32_t position = 0;
};

}  // namespace detail

// A work that can be queued after a delay. All calls that take a Work& take it too, in whichever state it is.
class DelayedWork : public Work, private detail::TimerNode {
 public:
  constexpr explicit DelayedWork(Function function) noexcept : Work(function, Kind::kDelayed) {}

 protected:
  constexpr DelayedWork(Function function, Kind kind) noexcept : Work(function, kind) {}

 private:
  friend class detail::Shard;
  friend class detail::WorkCore;
};

namespace detail {

// A callable that is run once, or not at all when its worker stops first, and freed.
template <class Base, class F>
class OneShot final : public Base {
 public:
  template <class G>
  explicit OneShot(G&& callable)  // NOLINT(bugprone-forwarding-reference-overload): never copied
      : Base(&OneShot::run, std::is_same_v<Base, DelayedWork> ? Base::Kind::kOwnedDelayed : Base::Kind::kOwned),
        callable_(std::forward<G>(callable)) {}

 private:
  static void run(Work& work) {
    auto* const self = static_cast<OneShot*>(&work);
    if (!self->being_dropped()) self->callable_();
    delete self;
  }
  F callable_;
};

}  // namespace detail

}  // namespace stasis
