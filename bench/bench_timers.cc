// SPDX-License-Identifier: Apache-2.0
// A million timers of random delays from 1.5 to 3.5 s: arm all, cancel a random half, fire the rest in one go. CPU time
// per timer of each phase. stasis is the wheel itself, as the others are; stasis_delayed_work are DelayedWorks on a
// Worker, with its lock and, for `fire`, its thread (elapsed time there).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "stasis/worker.h"
#include "work/timer_wheel.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#ifdef STASIS_PEER_LIBEV
#include <ev.h>
#endif
#ifdef STASIS_PEER_LIBEVENT
#include <event2/event.h>
#include <event2/event_struct.h>
#endif
#ifdef STASIS_PEER_UV
#include <uv.h>
#endif
#ifdef STASIS_PEER_ASIO
#include <asio.hpp>
#endif
#ifdef STASIS_PEER_GLIB
#include <glib.h>
#endif
#pragma GCC diagnostic pop

namespace stasis::bench {
namespace {

using Nanoseconds = std::chrono::nanoseconds;
constexpr std::size_t kTimers = 1'000'000;
constexpr Nanoseconds kShortest = std::chrono::milliseconds(1500);
constexpr Nanoseconds kLongest = std::chrono::milliseconds(3500);

// The same for all subjects.
struct Plan {
  std::vector<Nanoseconds> delays;
  std::vector<std::size_t> cancelled;  // in random order
  Plan() {
    std::mt19937_64 random(7);
    const auto span = static_cast<std::uint64_t>((kLongest - kShortest).count());
    for (std::size_t i = 0; i < kTimers; ++i) {
      delays.push_back(kShortest + Nanoseconds(static_cast<std::int64_t>(random() % span)));
    }
    cancelled.resize(kTimers);
    std::iota(cancelled.begin(), cancelled.end(), std::size_t{0});
    std::shuffle(cancelled.begin(), cancelled.end(), random);
    cancelled.resize(kTimers / 2);
  }
};

const Plan& plan() {
  static const Plan it;
  return it;
}

std::uint64_t g_fired = 0;  // by callbacks, all on one thread

class WheelTimers {
 public:
  static constexpr const char* kName = "stasis";
  explicit WheelTimers(std::size_t count) : timers_(count) {}
  void insert(std::size_t i, Nanoseconds delay) {
    if (!wheel_.insert(timers_[i], delay.count(), 0)) std::abort();
  }
  void cancel(std::size_t i) { wheel_.erase(timers_[i]); }
  void pass_time() {}
  void fire() {
    const detail::TimerWheel::Chain chain = wheel_.expire(kLongest.count());
    for (detail::TimerNode* timer = chain.first; timer != nullptr; timer = timer->next) callback_(*timer);
  }

 private:
  void (*volatile callback_)(detail::TimerNode&) = [](detail::TimerNode&) { ++g_fired; };
  std::vector<detail::TimerNode> timers_;
  detail::TimerWheel wheel_;
};

class DelayedWorks {
 public:
  static constexpr const char* kName = "stasis_delayed_work";
  explicit DelayedWorks(std::size_t count) : worker_(std::move(Worker::create({.clock = &clock_}).value())) {
    for (std::size_t i = 0; i < count; ++i) works_.emplace_back([](Work&) { ++g_fired; });
  }
  void insert(std::size_t i, Nanoseconds delay) { (void)worker_->queue_delayed(works_[i], delay); }
  void cancel(std::size_t i) { (void)worker_->cancel(works_[i]); }
  void pass_time() {}
  void fire() {
    clock_.advance(kLongest);
    (void)worker_->flush();
  }

 private:
  ManualClock clock_;
  std::deque<DelayedWork> works_;
  std::unique_ptr<Worker> worker_;
};

// The others go by the real clock: the wait until all are due is not measured.
class RealTime {
 public:
  void pass_time() const { std::this_thread::sleep_until(start_ + kLongest + std::chrono::milliseconds(5)); }

 private:
  // Before the first timer is armed; the last one is due at most the time of arming later.
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

#ifdef STASIS_PEER_LIBEV
class LibevTimers {
 public:
  static constexpr const char* kName = "libev";
  explicit LibevTimers(std::size_t count) : timers_(count), loop_(ev_loop_new(0)) {}
  ~LibevTimers() { ev_loop_destroy(loop_); }
  LibevTimers(const LibevTimers&) = delete;
  void insert(std::size_t i, Nanoseconds delay) {
    ev_timer_init(
        &timers_[i], [](struct ev_loop*, ev_timer*, int) { ++g_fired; }, std::chrono::duration<double>(delay).count(),
        0.0);
    ev_timer_start(loop_, &timers_[i]);
  }
  void cancel(std::size_t i) { ev_timer_stop(loop_, &timers_[i]); }
  void pass_time() const { real_.pass_time(); }
  void fire() { ev_run(loop_, 0); }

 private:
  RealTime real_;
  std::vector<ev_timer> timers_;
  struct ev_loop* loop_;
};
#endif

#ifdef STASIS_PEER_LIBEVENT
class LibeventTimers {
 public:
  static constexpr const char* kName = "libevent";
  explicit LibeventTimers(std::size_t count) : timers_(count), base_(event_base_new()) {}
  ~LibeventTimers() { event_base_free(base_); }
  LibeventTimers(const LibeventTimers&) = delete;
  void insert(std::size_t i, Nanoseconds delay) {
    event_assign(&timers_[i], base_, -1, 0, [](evutil_socket_t, short, void*) { ++g_fired; }, nullptr);
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(delay).count();
    const timeval time{.tv_sec = us / 1'000'000, .tv_usec = us % 1'000'000};
    event_add(&timers_[i], &time);
  }
  void cancel(std::size_t i) { event_del(&timers_[i]); }
  void pass_time() const { real_.pass_time(); }
  void fire() { event_base_dispatch(base_); }

 private:
  RealTime real_;
  std::vector<event> timers_;
  event_base* base_;
};
#endif

#ifdef STASIS_PEER_UV
class UvTimers {
 public:
  static constexpr const char* kName = "libuv";
  explicit UvTimers(std::size_t count) : timers_(count) {
    uv_loop_init(&loop_);
    for (uv_timer_t& timer : timers_) uv_timer_init(&loop_, &timer);
  }
  ~UvTimers() {
    for (uv_timer_t& timer : timers_) uv_close(reinterpret_cast<uv_handle_t*>(&timer), nullptr);
    uv_run(&loop_, UV_RUN_DEFAULT);
    uv_loop_close(&loop_);
  }
  UvTimers(const UvTimers&) = delete;
  void insert(std::size_t i, Nanoseconds delay) {
    uv_timer_start(
        &timers_[i], [](uv_timer_t*) { ++g_fired; },
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(delay).count()), 0);
  }
  void cancel(std::size_t i) { uv_timer_stop(&timers_[i]); }
  void pass_time() const { real_.pass_time(); }
  void fire() { uv_run(&loop_, UV_RUN_DEFAULT); }

 private:
  RealTime real_;
  std::vector<uv_timer_t> timers_;
  uv_loop_t loop_{};
};
#endif

#ifdef STASIS_PEER_ASIO
class AsioTimers {
 public:
  static constexpr const char* kName = "asio";
  explicit AsioTimers(std::size_t count) : context_(1) {
    for (std::size_t i = 0; i < count; ++i) timers_.emplace_back(context_);
  }
  void insert(std::size_t i, Nanoseconds delay) {
    timers_[i].expires_after(delay);
    timers_[i].async_wait([](const asio::error_code& error) { g_fired += error ? 0 : 1; });
  }
  void cancel(std::size_t i) { timers_[i].cancel(); }
  void pass_time() {
    context_.poll();  // the handlers of the cancelled ones
    context_.restart();
    real_.pass_time();
  }
  void fire() { context_.run(); }

 private:
  RealTime real_;
  asio::io_context context_;
  std::deque<asio::steady_timer> timers_;
};
#endif

#ifdef STASIS_PEER_GLIB
class GlibTimers {
 public:
  static constexpr const char* kName = "glib";
  explicit GlibTimers(std::size_t count) : timers_(count), context_(g_main_context_new()) {}
  ~GlibTimers() {
    for (GSource* timer : timers_) {
      if (timer == nullptr) continue;
      g_source_destroy(timer);
      g_source_unref(timer);
    }
    g_main_context_unref(context_);
  }
  GlibTimers(const GlibTimers&) = delete;
  void insert(std::size_t i, Nanoseconds delay) {
    timers_[i] =
        g_timeout_source_new(static_cast<guint>(std::chrono::duration_cast<std::chrono::milliseconds>(delay).count()));
    g_source_set_callback(
        timers_[i],
        [](gpointer) -> gboolean {
          ++g_fired;
          return G_SOURCE_REMOVE;
        },
        nullptr, nullptr);
    g_source_attach(timers_[i], context_);
  }
  void cancel(std::size_t i) { g_source_destroy(timers_[i]); }
  void pass_time() const { real_.pass_time(); }
  void fire() {
    while (g_fired < expected_) g_main_context_iteration(context_, TRUE);
  }

 private:
  RealTime real_;
  std::uint64_t expected_ = g_fired + kTimers / 2;
  std::vector<GSource*> timers_;
  GMainContext* context_;
};
#endif

enum class Phase { kInsert, kCancel, kFire };

double seconds_on(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

template <class Timers>
void measure(benchmark::State& state, Phase phase) {
  const Plan& its = plan();
  const bool other_thread = std::is_same_v<Timers, DelayedWorks> && phase == Phase::kFire;
  const clockid_t clock = other_thread ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
  for (auto _ : state) {
    auto timers = std::make_unique<Timers>(kTimers);
    const std::uint64_t fired = g_fired;
    const auto timed = [&](Phase which, auto action) {
      const double start = seconds_on(clock);
      action();
      if (which == phase) state.SetIterationTime(seconds_on(clock) - start);
    };
    timed(Phase::kInsert, [&] {
      for (std::size_t i = 0; i < kTimers; ++i) timers->insert(i, its.delays[i]);
    });
    timed(Phase::kCancel, [&] {
      for (const std::size_t i : its.cancelled) timers->cancel(i);
    });
    if (phase == Phase::kFire) {
      timers->pass_time();
      timed(Phase::kFire, [&] { timers->fire(); });
      if (g_fired - fired != kTimers / 2) state.SkipWithError("not all timers fired");
    }
  }
  const std::size_t items = phase == Phase::kInsert ? kTimers : kTimers / 2;
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * items));
}

template <class Timers>
void add() {
  const std::string name = Timers::kName;
  const auto one = [&](const char* phase_name, Phase phase) {
    benchmark::RegisterBenchmark((phase_name + name).c_str(),
                                 [phase](benchmark::State& state) { measure<Timers>(state, phase); })
        ->UseManualTime()
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond);
  };
  one("insert/", Phase::kInsert);
  one("cancel/", Phase::kCancel);
  one("fire/", Phase::kFire);
}

const int kRegistered = [] {
  add<WheelTimers>();
  add<DelayedWorks>();
#ifdef STASIS_PEER_LIBEV
  add<LibevTimers>();
#endif
#ifdef STASIS_PEER_LIBEVENT
  add<LibeventTimers>();
#endif
#ifdef STASIS_PEER_UV
  add<UvTimers>();
#endif
#ifdef STASIS_PEER_ASIO
  add<AsioTimers>();
#endif
#ifdef STASIS_PEER_GLIB
  add<GlibTimers>();
#endif
  return 0;
}();

}  // namespace
}  // namespace stasis::bench
