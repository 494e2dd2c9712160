// SPDX-License-Identifier: Apache-2.0
// What bench_worker and bench_work_queue measure: empty tasks through a pool, and the way of one task to an idle
// thread.
#pragma once

#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace stasis::bench {

using SteadyTime = std::chrono::steady_clock;

// The CPUs that we may use, up to two, the same one twice where there is but one.
inline std::array<int, 2> two_cpus() {
  std::array<int, 2> cpus{0, 0};
  cpu_set_t set;
  CPU_ZERO(&set);
  ::sched_getaffinity(0, sizeof set, &set);
  std::size_t found = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; ++cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) cpus[found++] = cpu;
  }
  if (found == 1) cpus[1] = cpus[0];
  return cpus;
}

// The calling thread on some CPUs while it lives; threads made meanwhile inherit that.
class ScopedCpus {
 public:
  explicit ScopedCpus(std::initializer_list<int> cpus) {
    ::sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus) CPU_SET(static_cast<unsigned>(cpu), &set);
    ::sched_setaffinity(0, sizeof set, &set);
  }
  ~ScopedCpus() { ::sched_setaffinity(0, sizeof before_, &before_); }
  ScopedCpus(const ScopedCpus&) = delete;
  ScopedCpus& operator=(const ScopedCpus&) = delete;

 private:
  cpu_set_t before_{};
};

// Counts runs without making the threads share a line for it.
class RunCounter {
 public:
  void count() noexcept {
    thread_local Slot* slot = nullptr;
    thread_local std::uint64_t owner = 0;
    if (owner != id_) {
      const std::lock_guard lock(mutex_);
      slots_.push_back(std::make_unique<Slot>());
      slot = slots_.back().get();
      owner = id_;
    }
    slot->runs.store(slot->runs.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  std::uint64_t sum() {
    const std::lock_guard lock(mutex_);
    std::uint64_t all = 0;
    for (const auto& slot : slots_) all += slot->runs.load(std::memory_order_acquire);
    return all;
  }
  // Sleeps rather than spins: the CPUs belong to the pool.
  void await(std::uint64_t runs) {
    while (sum() < runs) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }

 private:
  struct alignas(128) Slot {
    std::atomic<std::uint64_t> runs{0};
  };
  static std::uint64_t new_id() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }
  const std::uint64_t id_ = new_id();  // not the address: a pool's threads may outlive it, and meet the next one there
  std::mutex mutex_;
  std::vector<std::unique_ptr<Slot>> slots_;
};

inline double cpu_seconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Calls submit_batch(producer), which submits `batch` tasks, on each of `producers` threads, each on its own CPU. Time
// per task until all have run. Since elapsed time is at the mercy of whatever else the machine does, the CPU time that
// a task cost its producer, and all other threads, is given as well.
template <class SubmitBatch>
void measure_throughput(benchmark::State& state, RunCounter& counter, unsigned producers, std::size_t batch,
                        SubmitBatch submit_batch) {
  const auto cpus = two_cpus();
  std::uint64_t expected = counter.sum();
  std::atomic<double> producing{0};
  const auto produce = [&](unsigned producer) {
    const ScopedCpus here({cpus[producer % 2]});
    const double start = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    submit_batch(producer);
    producing.fetch_add(cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - start);
  };
  const double start = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
  for (auto _ : state) {
    expected += producers * batch;
    std::vector<std::thread> others;
    for (unsigned i = 1; i < producers; ++i) others.emplace_back([&, i] { produce(i); });
    produce(0);
    for (std::thread& other : others) other.join();
    counter.await(expected);
  }
  const double tasks = static_cast<double>(state.iterations()) * producers * static_cast<double>(batch);
  state.SetItemsProcessed(static_cast<std::int64_t>(tasks));
  const double all = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - start;
  state.counters["producer_cpu_ns"] = producing / tasks * 1e9;
  state.counters["runner_cpu_ns"] = (all - producing) / tasks * 1e9;
}

// Median over `samples` of the time from submit() to the start of the task on a thread that has been idle for `pause`.
// submit(arrived) has to run a task that stores the time in `arrived`.
template <class Submit>
void measure_latency(benchmark::State& state, int samples, std::chrono::microseconds pause, Submit submit) {
  const auto cpus = two_cpus();
  const ScopedCpus here({cpus[0]});
  for (auto _ : state) {
    std::vector<std::int64_t> times;
    for (int i = 0; i < samples; ++i) {
      const auto idle_until = SteadyTime::now() + pause;
      if (pause < std::chrono::microseconds(100)) {
        while (SteadyTime::now() < idle_until) {
        }
      } else {
        std::this_thread::sleep_for(pause);
      }
      std::atomic<std::int64_t> arrived{0};
      const std::int64_t start = SteadyTime::now().time_since_epoch().count();
      submit(arrived);
      while (arrived.load(std::memory_order_acquire) == 0) {
      }
      times.push_back(arrived.load() - start);
    }
    std::sort(times.begin(), times.end());
    const auto at = [&](double part) {
      return static_cast<double>(times[static_cast<std::size_t>(part * static_cast<double>(times.size() - 1))]);
    };
    state.SetIterationTime(at(0.5) * 1e-9);
    state.counters["min_us"] = at(0) * 1e-3;
    state.counters["p99_us"] = at(0.99) * 1e-3;
  }
}

inline std::int64_t now_ns() { return SteadyTime::now().time_since_epoch().count(); }

}  // namespace stasis::bench
