// SPDX-License-Identifier: Apache-2.0
// Worker beside other ways to hand tasks to one thread.
//   throughput: one producer on the first CPU, the thread on the second; time per empty task until all have run.
//   idle_latency: from submission to the start of the task on a thread that sleeps (stasis_spin: that still spins).
// stasis queues intrusive works, which is what it is for; stasis_post allocates a callable each, as the others do.
#include <memory>
#include <optional>
#include <type_traits>

#include "pool_bench.h"
#include "pools.h"
#include "stasis/worker.h"

namespace stasis::bench {
namespace {

constexpr std::size_t kBatch = 100'000;
constexpr int kSamples = 500;
constexpr auto kPause = std::chrono::microseconds(300);

struct CountWork : Work {
  CountWork() : Work(method<&CountWork::run>) {}
  void run() { counter->count(); }
  RunCounter* counter = nullptr;
};

std::unique_ptr<Worker> make_worker(Clock::Duration idle_spin = {}) {
  return std::move(Worker::create({.cpu = two_cpus()[1], .idle_spin = idle_spin}).value());
}

void throughput_stasis(benchmark::State& state) {
  RunCounter counter;
  std::vector<CountWork> works(kBatch);
  for (CountWork& work : works) work.counter = &counter;
  const auto worker = make_worker();
  measure_throughput(state, counter, 1, kBatch, [&](unsigned) {
    for (CountWork& work : works) (void)worker->queue(work);
  });
}

void throughput_stasis_post(benchmark::State& state) {
  RunCounter counter;
  const auto worker = make_worker();
  measure_throughput(state, counter, 1, kBatch, [&](unsigned) {
    for (std::size_t i = 0; i < kBatch; ++i) (void)worker->post([&counter] { counter.count(); });
  });
}

// A pool of one thread, on the second CPU, which has run a task.
template <class Pool>
std::unique_ptr<Pool> make_pool() {
  const int cpu = two_cpus()[1];
  std::unique_ptr<Pool> pool;
  std::optional<ScopedCpus> there;
  if constexpr (std::is_constructible_v<Pool, unsigned, int>) {
    pool = std::make_unique<Pool>(1U, cpu);
  } else {
    there.emplace(std::initializer_list<int>{cpu});  // its thread inherits that, made now or at the first task
    pool = std::make_unique<Pool>(1U);
  }
  std::atomic<bool> warm{false};
  pool->submit([&warm] { warm = true; });
  while (!warm) std::this_thread::yield();
  return pool;
}

template <class Pool>
void throughput_of(benchmark::State& state) {
  RunCounter counter;
  const std::unique_ptr<Pool> pool = make_pool<Pool>();
  measure_throughput(state, counter, 1, kBatch, [&](unsigned) {
    for (std::size_t i = 0; i < kBatch; ++i) pool->submit([&counter] { counter.count(); });
  });
}

void latency_stasis(benchmark::State& state, Clock::Duration spin, std::chrono::microseconds pause) {
  struct StampWork : Work {
    StampWork() : Work(method<&StampWork::run>) {}
    void run() { arrived->store(now_ns(), std::memory_order_release); }
    std::atomic<std::int64_t>* arrived = nullptr;
  };
  const auto worker = make_worker(spin);
  StampWork work;
  measure_latency(state, kSamples, pause, [&](std::atomic<std::int64_t>& arrived) {
    work.arrived = &arrived;
    (void)worker->queue(work);
  });
  (void)worker->flush();
}

template <class Pool>
void latency_of(benchmark::State& state) {
  const std::unique_ptr<Pool> pool = make_pool<Pool>();
  measure_latency(state, kSamples, kPause, [&](std::atomic<std::int64_t>& arrived) {
    pool->submit([&arrived] { arrived.store(now_ns(), std::memory_order_release); });
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
  benchmark::RegisterBenchmark("throughput/stasis", throughput_stasis)->UseRealTime()->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("throughput/stasis_post", throughput_stasis_post)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("idle_latency/stasis",
                               [](benchmark::State& state) { latency_stasis(state, {}, kPause); })
      ->UseManualTime()
      ->Iterations(1);
  benchmark::RegisterBenchmark("idle_latency/stasis_spin",
                               [](benchmark::State& state) {
                                 latency_stasis(state, std::chrono::microseconds(200), std::chrono::microseconds(20));
                               })
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
