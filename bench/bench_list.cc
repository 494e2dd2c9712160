// SPDX-License-Identifier: Apache-2.0
// List beside boost::intrusive (both kinds of hook) and std::list: 64-byte elements, time per element. In the random
// cases the list order is a random permutation of the memory order.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <list>
#include <numeric>
#include <random>
#include <vector>

#ifdef STASIS_PEER_BOOST
#include <boost/intrusive/list.hpp>
#endif

#include "stasis/list.h"

namespace stasis {
namespace {

std::vector<std::uint32_t> permutation(std::size_t n, unsigned seed) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::shuffle(order, std::mt19937(seed));
  return order;
}

struct alignas(64) Ours {
  std::uint64_t key = 0;
  ListHook hook;
};
struct OurList {
  using Node = Ours;
  List<Ours, &Ours::hook> list;
  void push_back(Ours& node) { list.push_back(node); }
  void pop_front() { list.pop_front(); }
  void erase(Ours& node) { list.erase(node); }
  void sort() {
    list.sort([](const Ours& a, const Ours& b) { return a.key < b.key; });
  }
  void clear() { list.clear(); }
};
static_assert(sizeof(Ours) == 64);

#ifdef STASIS_PEER_BOOST
template <boost::intrusive::link_mode_type kMode>
struct alignas(64) Boosts : boost::intrusive::list_base_hook<boost::intrusive::link_mode<kMode>> {
  std::uint64_t key = 0;
};
template <boost::intrusive::link_mode_type kMode>
struct BoostList {
  using Node = Boosts<kMode>;
  boost::intrusive::list<Node, boost::intrusive::constant_time_size<false>> list;
  void push_back(Node& node) { list.push_back(node); }
  void pop_front() { list.pop_front(); }
  void erase(Node& node) { list.erase(list.iterator_to(node)); }
  void sort() {
    list.sort([](const Node& a, const Node& b) { return a.key < b.key; });
  }
  void clear() { list.clear(); }
};
using BoostNormal = BoostList<boost::intrusive::normal_link>;
using BoostSafe = BoostList<boost::intrusive::safe_link>;
#endif

template <class Traits>
void push_pop(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  std::vector<typename Traits::Node> nodes(n);
  Traits list;
  for (auto _ : state) {
    for (auto& node : nodes) list.push_back(node);
    benchmark::ClobberMemory();
    for (std::size_t i = 0; i < n; ++i) list.pop_front();
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

template <class Traits>
void erase_random(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  std::vector<typename Traits::Node> nodes(n);
  const std::vector<std::uint32_t> order = permutation(n, 1);
  Traits list;
  for (auto _ : state) {
    state.PauseTiming();
    for (auto& node : nodes) list.push_back(node);
    state.ResumeTiming();
    for (const std::uint32_t i : order) list.erase(nodes[i]);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

template <class Traits>
void iterate(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  std::vector<typename Traits::Node> nodes(n);
  Traits list;
  for (const std::uint32_t i : permutation(n, 2)) list.push_back(nodes[i]);
  for (auto _ : state) {
    std::uint64_t sum = 0;
    for (const auto& node : list.list) sum += node.key;
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
  list.clear();
}

template <class Traits>
void sort_random(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  std::vector<typename Traits::Node> nodes(n);
  const std::vector<std::uint32_t> keys = permutation(n, 3);
  for (std::size_t i = 0; i < n; ++i) nodes[i].key = keys[i];
  Traits list;
  for (auto _ : state) {
    state.PauseTiming();
    list.clear();
    for (auto& node : nodes) list.push_back(node);
    state.ResumeTiming();
    list.sort();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
  list.clear();
}

struct StdNode {
  std::uint64_t key = 0;
  std::uint64_t rest[5] = {};  // 64 bytes with the list's links
};

void std_push_pop(benchmark::State& state) {
  std::list<StdNode> list;
  for (auto _ : state) {
    for (std::int64_t i = 0; i < state.range(0); ++i) list.emplace_back();
    while (!list.empty()) list.pop_front();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void std_erase_random(benchmark::State& state) {
  const auto n = static_cast<std::size_t>(state.range(0));
  const std::vector<std::uint32_t> order = permutation(n, 1);
  std::list<StdNode> list;
  std::vector<std::list<StdNode>::iterator> places(n);
  for (auto _ : state) {
    state.PauseTiming();
    for (auto& place : places) place = list.emplace(list.end());
    state.ResumeTiming();
    for (const std::uint32_t i : order) list.erase(places[i]);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void std_sort_random(benchmark::State& state) {
  const std::vector<std::uint32_t> keys = permutation(static_cast<std::size_t>(state.range(0)), 3);
  for (auto _ : state) {
    state.PauseTiming();
    std::list<StdNode> list;
    for (const std::uint32_t key : keys) list.emplace_back().key = key;
    state.ResumeTiming();
    list.sort([](const StdNode& a, const StdNode& b) { return a.key < b.key; });
    state.PauseTiming();
    list.clear();
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

#ifdef STASIS_PEER_BOOST
#define STASIS_PEERS_OF(test)                                                         \
  BENCHMARK(test<BoostNormal>)->Name(#test "/boost::intr.")->Arg(1000)->Arg(1000000); \
  BENCHMARK(test<BoostSafe>)->Name(#test "/boost safe")->Arg(1000)->Arg(1000000)
#else
#define STASIS_PEERS_OF(test) static_assert(true)
#endif

BENCHMARK(push_pop<OurList>)->Name("push_pop/stasis")->Arg(1000)->Arg(1000000);
STASIS_PEERS_OF(push_pop);
BENCHMARK(std_push_pop)->Name("push_pop/std::list")->Arg(1000)->Arg(1000000);
BENCHMARK(erase_random<OurList>)->Name("erase_random/stasis")->Arg(1000)->Arg(1000000);
STASIS_PEERS_OF(erase_random);
BENCHMARK(std_erase_random)->Name("erase_random/std::list")->Arg(1000)->Arg(1000000);
BENCHMARK(iterate<OurList>)->Name("iterate/stasis")->Arg(1000)->Arg(1000000);
STASIS_PEERS_OF(iterate);
BENCHMARK(sort_random<OurList>)->Name("sort_random/stasis")->Arg(1000)->Arg(1000000);
STASIS_PEERS_OF(sort_random);
BENCHMARK(std_sort_random)->Name("sort_random/std::list")->Arg(1000)->Arg(1000000);

}  // namespace
}  // namespace stasis
