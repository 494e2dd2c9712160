// SPDX-License-Identifier: Apache-2.0
// DeferQueue beside what one would otherwise write: add n closures of three types with 64 bytes of data, run them all.
// Time per closure (add + run + destroy). "reused" containers keep their storage over the rounds, as our queue does.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "stasis/defer_queue.h"
#include "stasis/list.h"

namespace {
std::uint64_t g_allocations = 0;
}

// Counts every allocation of this program (all subjects are single-threaded). GCC takes the pair for mismatched.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(std::size_t size) {
  ++g_allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++g_allocations;
  return std::malloc(size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#pragma GCC diagnostic pop

namespace stasis {
namespace {

using Payload = std::array<std::uint64_t, 7>;  // with the reference to the sum: 64 bytes

struct WorkA {
  std::uint64_t* sum;
  Payload data;
  void operator()() { *sum += data[0]; }
};
struct WorkB {
  std::uint64_t* sum;
  Payload data;
  void operator()() { *sum ^= data[1]; }
};
struct WorkC {
  std::uint64_t* sum;
  Payload data;
  void operator()() { *sum -= data[2]; }
};

// Hands the i-th work to `add`, as an rvalue built on the spot.
template <class Add>
void add_works(std::size_t n, std::uint64_t& sum, Add add) {
  for (std::size_t i = 0; i < n; ++i) {
    switch (i % 3) {
      case 0:
        add(WorkA{&sum, Payload{i, 1, 2, 3, 4, 5, 6}});
        break;
      case 1:
        add(WorkB{&sum, Payload{i, 1, 2, 3, 4, 5, 6}});
        break;
      default:
        add(WorkC{&sum, Payload{i, 1, 2, 3, 4, 5, 6}});
    }
  }
}

// round(n, sum): one add-all, run-all.
template <class Round>
void measure(benchmark::State& state, Round round) {
  const auto n = static_cast<std::size_t>(state.range(0));
  std::uint64_t sum = 0;
  round(n, sum);  // warm: what may be kept is there
  const std::uint64_t allocations = g_allocations;
  for (auto _ : state) {
    round(n, sum);
    benchmark::DoNotOptimize(sum);
  }
  const auto items = static_cast<std::int64_t>(state.iterations()) * state.range(0);
  state.SetItemsProcessed(items);
  state.counters["allocations/item"] = static_cast<double>(g_allocations - allocations) / static_cast<double>(items);
}

void stasis_queue(benchmark::State& state) {
  DeferQueue queue;
  measure(state, [&queue](std::size_t n, std::uint64_t& sum) {
    add_works(n, sum, [&queue](auto&& work) { (void)queue.add(std::move(work)); });
    (void)queue.run();
  });
}

void stasis_raw(benchmark::State& state) {
  DeferQueue queue;
  measure(state, [&queue](std::size_t n, std::uint64_t& sum) {
    add_works(n, sum, [&queue](auto&& work) {
      using Work = std::decay_t<decltype(work)>;
      (void)queue.add(
          &work, sizeof work,
          [](void* data) -> Result<void> {
            (*static_cast<Work*>(data))();
            return {};
          },
          nullptr);
    });
    (void)queue.run();
  });
}

void vector_function_fresh(benchmark::State& state) {
  measure(state, [](std::size_t n, std::uint64_t& sum) {
    std::vector<std::function<void()>> queue;
    add_works(n, sum, [&queue](auto&& work) { queue.emplace_back(std::move(work)); });
    for (auto& work : queue) work();
  });
}

void vector_function_reused(benchmark::State& state) {
  std::vector<std::function<void()>> queue;
  measure(state, [&queue](std::size_t n, std::uint64_t& sum) {
    add_works(n, sum, [&queue](auto&& work) { queue.emplace_back(std::move(work)); });
    for (auto& work : queue) work();
    queue.clear();
  });
}

void deque_move_only(benchmark::State& state) {
  std::deque<std::move_only_function<void()>> queue;
  measure(state, [&queue](std::size_t n, std::uint64_t& sum) {
    add_works(n, sum, [&queue](auto&& work) { queue.emplace_back(std::move(work)); });
    while (!queue.empty()) {
      queue.front()();
      queue.pop_front();
    }
  });
}

struct Node {
  virtual ~Node() = default;
  virtual void run() = 0;
};
template <class Work>
struct NodeOf : Node {
  explicit NodeOf(Work&& w) : work(std::move(w)) {}
  void run() override { work(); }
  Work work;
};

void list_unique_ptr(benchmark::State& state) {
  measure(state, [](std::size_t n, std::uint64_t& sum) {
    std::list<std::unique_ptr<Node>> queue;
    add_works(n, sum, [&queue](auto&& work) {
      using Work = std::decay_t<decltype(work)>;
      queue.push_back(std::make_unique<NodeOf<Work>>(std::move(work)));
    });
    for (auto& work : queue) work->run();
  });
}

#define STASIS_BENCH(subject, function) BENCHMARK(function)->Name("add_run/" subject)->Arg(16)->Arg(1000)->Arg(1000000)
STASIS_BENCH("stasis", stasis_queue);
STASIS_BENCH("stasis_raw", stasis_raw);
STASIS_BENCH("vector<function>", vector_function_fresh);
STASIS_BENCH("vector<f>reused", vector_function_reused);
STASIS_BENCH("deque<move_only>", deque_move_only);
STASIS_BENCH("list<unique_ptr>", list_unique_ptr);

}  // namespace
}  // namespace stasis
