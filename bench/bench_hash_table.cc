// SPDX-License-Identifier: Apache-2.0
// HashTable (and with it HList) beside boost::intrusive::unordered_set, which has elements of the caller's as well, and
// std::unordered_map, which has its own: 64-byte elements with 64-bit keys, time per element. Boost's table does not
// grow by itself: it gets as many buckets as ours has in the end. Searches come in an order of their own.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#ifdef STASIS_PEER_BOOST
#include <boost/intrusive/unordered_set.hpp>
#endif

#include "stasis/hlist.h"

namespace stasis {
namespace {

std::vector<std::uint64_t> random_keys(std::size_t n) {
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> keys(n);
  std::ranges::generate(keys, random);
  return keys;
}

struct alignas(64) Ours {
  std::uint64_t key = 0;
  HListHook hook;
};
struct KeyOf {
  std::uint64_t operator()(const Ours& element) const noexcept { return element.key; }
};
struct OurTable {
  using Node = Ours;
  explicit OurTable(std::size_t) {}
  HashTable<Ours, &Ours::hook, KeyOf> table;
  void insert(Node& node) { table.insert(node); }
  bool contains(std::uint64_t key) { return table.find(key) != nullptr; }
  void erase(Node& node) { table.erase(node); }
};

#ifdef STASIS_PEER_BOOST
namespace bi = boost::intrusive;
struct alignas(64) Boosts : bi::unordered_set_base_hook<bi::link_mode<bi::normal_link>> {
  std::uint64_t key = 0;
};
struct BoostKey {
  using type = std::uint64_t;
  type operator()(const Boosts& element) const noexcept { return element.key; }
};
struct BoostTable {
  using Node = Boosts;
  using Set = bi::unordered_set<Boosts, bi::key_of_value<BoostKey>, bi::hash<SpreadHash>, bi::power_2_buckets<true>,
                                bi::constant_time_size<false>>;
  explicit BoostTable(std::size_t n)
      : buckets(std::make_unique<Set::bucket_type[]>(std::bit_ceil(n))), table({buckets.get(), std::bit_ceil(n)}) {}
  ~BoostTable() { table.clear(); }
  std::unique_ptr<Set::bucket_type[]> buckets;
  Set table;
  void insert(Node& node) { table.insert(node); }
  bool contains(std::uint64_t key) { return table.find(key) != table.end(); }
  void erase(Node& node) { table.erase(table.iterator_to(node)); }
};
#endif

struct StdTable {
  struct Node {
    std::uint64_t key = 0;
    std::uint64_t rest[7] = {};
  };
  explicit StdTable(std::size_t) {}
  std::unordered_map<std::uint64_t, Node> table;
  void insert(const Node& node) { table.emplace(node.key, node); }
  bool contains(std::uint64_t key) const { return table.contains(key); }
  void erase(const Node& node) { table.erase(node.key); }
};

template <class Table>
std::vector<typename Table::Node> make_nodes(const std::vector<std::uint64_t>& keys) {
  std::vector<typename Table::Node> nodes(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) nodes[i].key = keys[i];
  return nodes;
}

template <class Table>
void fill_and_empty(benchmark::State& state) {
  const auto keys = random_keys(static_cast<std::size_t>(state.range(0)));
  auto nodes = make_nodes<Table>(keys);
  for (auto _ : state) {
    Table table(nodes.size());
    for (auto& node : nodes) table.insert(node);
    for (auto& node : nodes) table.erase(node);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

template <class Table>
void find(benchmark::State& state) {
  auto keys = random_keys(static_cast<std::size_t>(state.range(0)));
  auto nodes = make_nodes<Table>(keys);
  Table table(nodes.size());
  for (auto& node : nodes) table.insert(node);
  std::ranges::shuffle(keys, std::mt19937(2));
  for (auto _ : state) {
    std::size_t found = 0;
    for (const std::uint64_t key : keys) found += table.contains(key);
    if (found != keys.size()) state.SkipWithError("a key is missing");
    benchmark::DoNotOptimize(found);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
  for (auto& node : nodes) table.erase(node);
}

#define STASIS_CASE(test, table, name) BENCHMARK(test<table>)->Name(#test "/" name)->Arg(1000)->Arg(1000000)

STASIS_CASE(fill_and_empty, OurTable, "stasis");
STASIS_CASE(fill_and_empty, StdTable, "std::unordered_map");
STASIS_CASE(find, OurTable, "stasis");
STASIS_CASE(find, StdTable, "std::unordered_map");
#ifdef STASIS_PEER_BOOST
STASIS_CASE(fill_and_empty, BoostTable, "boost::intr.");
STASIS_CASE(find, BoostTable, "boost::intr.");
#endif

}  // namespace
}  // namespace stasis
