// SPDX-License-Identifier: Apache-2.0
// WorkQueue beside other thread pools: two producers, each on a CPU of its own, and two threads; time per empty task
// until all have run. stasis is a per-CPU queue, stasis_unbound an unbound one. idle_latency: from submission, to
// whichever CPU the pool sees fit, to the start of the task.
#include <memory>

#include "pool_bench.h"
#include "pools.h"
#include "stasis/work_queue.h"

namespace stasis::bench {
namespace {

constexpr std::size_t kBatch = 50'000;
constexpr unsigned kProducers = 2;
constexpr int kSamples = 500;
constexpr auto kPause = std::chrono::microseconds(300);

struct CountWork : Work {
  CountWork() : Work(method<&CountWork::run>) {}
  void run() { counter->count(); }
  RunCounter* counter = nullptr;
};

void throughput_stasis(benchmark::State& state, QueueKind kind) {
  RunCounter counter;
  std::array<std::vector<CountWork>, kProducers> works;
  for (auto& its : works) {
    its = std::vector<CountWork>(kBatch);
    for (CountWork& work : its) work.counter = &counter;
  }
  const auto queue = std::move(WorkQueue::create({.kind = kind}).value());
  measure_throughput(state, counter, kProducers, kBatch, [&](unsigned producer) {
    for (CountWork& work : works[producer]) (void)queue->queue(work);
  });
}

void throughput_stasis_post(benchmark::State& state) {
  RunCounter counter;
  const auto queue = std::move(WorkQueue::create().value());
  measure_throughput(state, counter, kProducers, kBatch, [&](unsigned) {
    for (std::size_t i = 0; i < kBatch; ++i) (void)queue->post([&counter] { counter.count(); });
  });
}

template <class Pool>
void throughput_of(benchmark::State& state) {
  RunCounter counter;
  Pool pool(2);
  measure_throughput(state, counter, kProducers, kBatch, [&](unsigned) {
    for (std::size_t i = 0; i < kBatch; ++i) pool.submit([&counter] { counter.count(); });
  });
}

void latency_stasis(benchmark::State& state, QueueKind kind) {
  struct StampWork : Work {
    StampWork() : Work(method<&StampWork::run>) {}
    void run() { arrived->store(now_ns(), std::memory_order_release); }
    std::atomic<std::int64_t>* arrived = nullptr;
  };
  const auto queue = std::move(WorkQueue::create({.kind = kind}).value());
  StampWork work;
  measure_latency(state, kSamples, kPause, [&](std::atomic<std::int64_t>& arrived) {
    work.arrived = &arrived;
    (void)queue->queue(work);
  });
  (void)queue->flush();
}

template <class Pool>
void latency_of(benchmark::State& state) {
  Pool pool(2);
  measure_latency(state, kSamples, kPause, [&](std::atomic<std::int64_t>& arrived) {
    pool.submit([&arrived] { arrived.store(now_ns(), std::memory_order_release); });
  });
}

template <class Pool>
void add_peer() {
  benchmark::RegisterBenchmark((std::string("throughput/") + Pool::kName).c_str(), throughput_of<Pool>)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark((std::string("idle_latency/") + Pool::kName).c_str(), latency_of<Pool>)
      ->UseManualTime()
      ->Iterations(1);
}

const int kRegistered = [] {
  const auto add = [](const char* name, auto function) {
    benchmark::RegisterBenchmark(name, function)->UseRealTime()->Unit(benchmark::kMillisecond);
  };
  add("throughput/stasis", [](benchmark::State& state) { throughput_stasis(state, QueueKind::kPerCpu); });
  add("throughput/stasis_unbound", [](benchmark::State& state) { throughput_stasis(state, QueueKind::kUnbound); });
  add("throughput/stasis_post", throughput_stasis_post);
  benchmark::RegisterBenchmark("idle_latency/stasis",
                               [](benchmark::State& state) { latency_stasis(state, QueueKind::kPerCpu); })
      ->UseManualTime()
      ->Iterations(1);
  benchmark::RegisterBenchmark("idle_latency/stasis_unbound",
                               [](benchmark::State& state) { latency_stasis(state, QueueKind::kUnbound); })
      ->UseManualTime()
      ->Iterations(1);
  add_peer<MutexPool>();
#ifdef STASIS_PEER_ASIO
  add_peer<AsioPool>();
#endif
#ifdef STASIS_PEER_TBB
  add_peer<TbbPool>();
#endif
#ifdef STASIS_PEER_MOODYCAMEL
  add_peer<MoodycamelPool>();
#endif
#ifdef STASIS_PEER_GLIB
  add_peer<GlibPool>();
#endif
  return 0;
}();

}  // namespace
}  // namespace stasis::bench
