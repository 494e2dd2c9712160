// SPDX-License-Identifier: Apache-2.0
// ObjHash beside maps from pointer to {objref, type}. Keys are addresses as an allocator gives them (steps of 64 to 128
// bytes), asked for in random order. The peers do half of the work (no way back from objref to object).
//
//   insert    n objects into an empty hash, time per object, growth and page faults included
//   hit       lookups of present objects; miss: of absent ones; fetch: by objref (ours alone)
//   clear     until every reference is dropped, one indirect call per object; free: giving the memory back after that
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <unordered_map>
#include <vector>

#ifdef STASIS_PEER_BOOST
#include <boost/unordered/unordered_flat_map.hpp>
#include <boost/unordered_map.hpp>
#endif
#ifdef STASIS_PEER_ABSL
#include <absl/container/flat_hash_map.h>
#endif

#include "stasis/objhash.h"

namespace stasis {
namespace {

constexpr ObjType kType = 1;
std::uint64_t g_drops = 0;
void count_drop(void* object, LastRef) { g_drops += reinterpret_cast<std::uintptr_t>(object) & 1 ? 2 : 1; }
Result<void> no_grab(void*) { return {}; }
constexpr ObjOps kOps[] = {{}, {.type = kType, .name = "object", .grab = no_grab, .drop = count_drop}};

struct Keys {
  std::vector<const void*> present;  // in the order of insertion
  std::vector<const void*> asked;    // the same, shuffled
  std::vector<const void*> absent;
};

// The same keys for every subject; made once per size.
const Keys& keys(std::size_t n) {
  static std::unordered_map<std::size_t, Keys> made;
  Keys& found = made[n];
  if (!found.present.empty()) return found;
  std::mt19937_64 random(n);
  std::uintptr_t address = 0x7f3a'5000'0000;
  for (std::size_t i = 0; i < n; ++i) {
    address += 64 + random() % 5 * 16;
    found.present.push_back(reinterpret_cast<const void*>(address));
    found.absent.push_back(reinterpret_cast<const void*>(address + 8));
  }
  std::ranges::shuffle(found.present, random);
  std::ranges::shuffle(found.absent, random);
  found.asked = found.present;
  std::ranges::shuffle(found.asked, random);
  return found;
}

struct Value {
  std::int32_t ref;
  ObjType type;
};

// Each subject: add(key) (an encounter: finds or numbers it), find(key) -> objref or 0, drop_all(), free_memory().
class Ours {
 public:
  Ours() : hash_(std::make_unique<ObjHash>(kOps)) {}
  std::int32_t add(const void* key) { return hash_->lookup_add(const_cast<void*>(key), kType)->ref.value(); }
  std::int32_t find(const void* key) const { return hash_->lookup(key, kType)->value(); }
  const void* fetch(std::int32_t ref) const { return *hash_->fetch(ObjRef(ref), kType); }
  void drop_all() { hash_->clear(); }
  void free_memory() { hash_->free_later(); }

 private:
  std::unique_ptr<ObjHash> hash_;
};

template <class Map>
class Peer {
 public:
  std::int32_t add(const void* key) {
    const auto [at, first] = map_.try_emplace(key, Value{next_, kType});
    if (first && no_grab(nullptr)) ++next_;
    return at->second.ref;
  }
  std::int32_t find(const void* key) const {
    const auto at = map_.find(key);
    return at == map_.end() || at->second.type != kType ? 0 : at->second.ref;
  }
  // What a user writes: drop each, then the map lets go of its memory where that is not one with the dropping.
  void drop_all() {
    void (*drop)(void*, LastRef) = kOps[kType].drop;
    benchmark::DoNotOptimize(drop);
    for (auto& [key, value] : map_) drop(const_cast<void*>(key), LastRef::kYes);
  }
  void free_memory() { map_ = Map(); }

 private:
  Map map_;
  std::int32_t next_ = 1;
};

template <class Subject>
void insert(benchmark::State& state) {
  const Keys& some = keys(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    auto subject = std::make_unique<Subject>();
    for (const void* key : some.present) benchmark::DoNotOptimize(subject->add(key));
    state.PauseTiming();
    subject.reset();
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

// A filled subject to ask; made once per size, since filling the large ones takes seconds.
template <class Subject>
const Subject& filled(std::size_t n) {
  static std::unordered_map<std::size_t, std::unique_ptr<Subject>> made;
  std::unique_ptr<Subject>& subject = made[n];
  if (subject == nullptr) {
    subject = std::make_unique<Subject>();
    for (const void* key : keys(n).present) subject->add(key);
  }
  return *subject;
}

template <class Subject>
void ask(benchmark::State& state, const std::vector<const void*>& asked) {
  const auto& subject = filled<Subject>(asked.size());
  std::size_t i = 0;
  for (auto _ : state) {
    std::int32_t sum = 0;
    for (int lookups = 0; lookups < 1000; ++lookups) {
      sum ^= subject.find(asked[i]);
      if (++i == asked.size()) i = 0;
    }
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * 1000);
}
template <class Subject>
void hit(benchmark::State& state) {
  ask<Subject>(state, keys(static_cast<std::size_t>(state.range(0))).asked);
}
template <class Subject>
void miss(benchmark::State& state) {
  ask<Subject>(state, keys(static_cast<std::size_t>(state.range(0))).absent);
}

void fetch(benchmark::State& state) {
  const auto& subject = filled<Ours>(static_cast<std::size_t>(state.range(0)));
  std::vector<std::int32_t> refs(static_cast<std::size_t>(state.range(0)));
  std::iota(refs.begin(), refs.end(), 1);
  std::ranges::shuffle(refs, std::mt19937(1));
  std::size_t i = 0;
  for (auto _ : state) {
    std::uintptr_t sum = 0;
    for (int lookups = 0; lookups < 1000; ++lookups) {
      sum ^= reinterpret_cast<std::uintptr_t>(subject.fetch(refs[i]));
      if (++i == refs.size()) i = 0;
    }
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * 1000);
}

enum class Phase { kClear, kFree };
template <class Subject, Phase kPhase>
void let_go(benchmark::State& state) {
  const Keys& some = keys(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    state.PauseTiming();
    auto subject = std::make_unique<Subject>();
    for (const void* key : some.present) subject->add(key);
    if (kPhase == Phase::kFree) subject->drop_all();
    state.ResumeTiming();
    if (kPhase == Phase::kClear) {
      subject->drop_all();
    } else {
      subject->free_memory();
    }
    state.PauseTiming();
    subject.reset();
    state.ResumeTiming();
  }
  benchmark::DoNotOptimize(g_drops);
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
template <class Subject>
void clear(benchmark::State& state) {
  let_go<Subject, Phase::kClear>(state);
}
template <class Subject>
void free_memory(benchmark::State& state) {
  let_go<Subject, Phase::kFree>(state);
}

using StdMap = Peer<std::unordered_map<const void*, Value>>;

#define STASIS_ROW(test, subject, type, ...) BENCHMARK(test<type>)->Name(#test "/" subject) __VA_ARGS__
#define STASIS_ROWS(subject, type)                                            \
  STASIS_ROW(insert, subject, type, ->Arg(1000)->Arg(100000)->Arg(10000000)); \
  STASIS_ROW(hit, subject, type, ->Arg(1000)->Arg(100000)->Arg(10000000));    \
  STASIS_ROW(miss, subject, type, ->Arg(1000)->Arg(100000)->Arg(10000000));   \
  STASIS_ROW(clear, subject, type, ->Arg(1000000)->Iterations(2));            \
  STASIS_ROW(free_memory, subject, type, ->Arg(1000000)->Iterations(2))

STASIS_ROWS("stasis", Ours);
BENCHMARK(fetch)->Name("fetch/stasis")->Arg(1000)->Arg(100000)->Arg(10000000);
#ifdef STASIS_PEER_BOOST
using BoostFlat = Peer<boost::unordered_flat_map<const void*, Value>>;
using BoostMap = Peer<boost::unordered_map<const void*, Value>>;
STASIS_ROWS("boost flat_map", BoostFlat);
STASIS_ROWS("boost map", BoostMap);
#endif
#ifdef STASIS_PEER_ABSL
using AbslFlat = Peer<absl::flat_hash_map<const void*, Value>>;
STASIS_ROWS("absl flat", AbslFlat);
#endif
STASIS_ROWS("std map", StdMap);

}  // namespace
}  // namespace stasis
