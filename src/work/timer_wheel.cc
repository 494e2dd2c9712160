// SPDX-License-Identifier: Apache-2.0
#include "work/timer_wheel.h"

#include <algorithm>
#include <bit>
#include <new>
#include <numeric>
#include <ranges>
#include <span>
#include <utility>

namespace stasis::detail {
namespace {

constexpr std::size_t kPrefetch = 12;       // timers fetched ahead: about one miss of DRAM over the work per timer
constexpr std::size_t kKeepCapacity = 256;  // entries of an emptied bucket that stay allocated
constexpr std::size_t kFirstEntries = 4;
constexpr std::size_t kGreatSteps = 1024;
constexpr std::uint32_t kFewHoles = 32;
constexpr std::size_t kRadixAbove = 512;  // entries from which on sorting by digits pays
constexpr unsigned kDigitBits = 9;
constexpr unsigned kMaxDigits = 5;
constexpr std::size_t kSpreadAbove = 4;  // a coarse bucket with fewer entries is cheaper to look through again

void append(TimerWheel::Chain& chain, TimerNode& timer) noexcept {
  timer.next = nullptr;
  (chain.last != nullptr ? chain.last->next : chain.first) = &timer;
  chain.last = &timer;
  ++chain.count;
}

void concatenate(TimerWheel::Chain& chain, const TimerWheel::Chain& more) noexcept {
  if (more.first == nullptr) return;
  (chain.last != nullptr ? chain.last->next : chain.first) = more.first;
  chain.last = more.last;
  chain.count += more.count;
}

// Stable; at a tie `a` goes first.
TimerWheel::Chain merge(const TimerWheel::Chain& a, const TimerWheel::Chain& b) noexcept {
  if (a.first == nullptr) return b;
  if (b.first == nullptr) return a;
  TimerWheel::Chain merged;
  TimerWheel::Chain one = a;
  TimerWheel::Chain other = b;
  while (one.first != nullptr && other.first != nullptr) {
    TimerWheel::Chain& winner = other.first->expiry < one.first->expiry ? other : one;
    TimerNode& timer = *std::exchange(winner.first, winner.first->next);
    append(merged, timer);
  }
  const TimerWheel::Chain& rest = one.first != nullptr ? one : other;
  merged.last->next = rest.first;
  return {.first = merged.first, .last = rest.last, .count = a.count + b.count};
}

// Sorts by digits of the time, the lowest first; stable. False: not worth it, or no memory for it.
template <class Entry>
bool radix_sort(std::span<Entry> entries) noexcept {
  if (entries.size() < kRadixAbove) return false;
  const auto [least, most] = std::ranges::minmax(entries | std::views::transform(&Entry::expiry));
  const auto digits =
      (static_cast<unsigned>(std::bit_width(static_cast<std::uint64_t>(most - least))) + kDigitBits - 1) / kDigitBits;
  if (digits > kMaxDigits) return false;
  const std::unique_ptr<Entry[]> room(new (std::nothrow) Entry[entries.size()]);
  if (room == nullptr) return false;
  std::span<Entry> from = entries;
  std::span<Entry> to(room.get(), entries.size());
  for (unsigned shift = 0; shift < digits * kDigitBits; shift += kDigitBits) {
    const auto digit = [shift, base = least](const Entry& entry) {
      return static_cast<std::uint64_t>(entry.expiry - base) >> shift & ((1U << kDigitBits) - 1);
    };
    std::array<std::size_t, 1U << kDigitBits> places{};
    for (const Entry& entry : from) ++places[digit(entry)];
    std::exclusive_scan(places.begin(), places.end(), places.begin(), std::size_t{0});
    for (const Entry& entry : from) to[places[digit(entry)]++] = entry;
    std::swap(from, to);
  }
  if (from.data() != entries.data()) std::ranges::copy(from, entries.begin());
  return true;
}

}  // namespace

// The finest level whose 64 buckets, counted from the current one, contain `tick`.
unsigned TimerWheel::level_for(std::uint64_t tick) const noexcept {
  const std::uint64_t distance = tick - base_;
  unsigned level = distance < kBuckets ? 0 : (static_cast<unsigned>(std::bit_width(distance)) - 1) / kLevelShift;
  // The difference of the bucket numbers can be one more than that of the ticks suggests.
  if ((tick >> (level * kLevelShift)) - (base_ >> (level * kLevelShift)) >= kBuckets) ++level;
  return level;
}

// Large arrays grow in great steps: what is not used of them is no memory yet, and less is copied and faulted in.
void TimerWheel::grow(std::vector<Entry>& entries) {
  const std::size_t size = entries.size();
  entries.reserve(size < kGreatSteps ? std::max(kFirstEntries, size * 2) : size * 4);
}

bool TimerWheel::place(TimerNode& timer, std::int64_t expiry) noexcept try {
  const std::uint64_t tick = std::max(tick_of(expiry), base_);
  const unsigned number = level_for(tick);
  if (!levels_[number]) levels_[number] = std::make_unique<Level>();
  Level& level = *levels_[number];
  const auto index = static_cast<unsigned>(tick >> (number * kLevelShift)) % kBuckets;
  Bucket& bucket = level.buckets[index];
  if (bucket.entries.size() == bucket.entries.capacity()) grow(bucket.entries);
  bucket.entries.push_back({.expiry = expiry, .timer = &timer});
  bucket.earliest = std::min(bucket.earliest, expiry);
  level.occupied |= std::uint64_t{1} << index;
  timer.expiry = expiry;
  timer.bucket = number * kBuckets + index;
  timer.position = static_cast<std::uint32_t>(bucket.entries.size() - 1);
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

bool TimerWheel::insert(TimerNode& timer, std::int64_t expiry, std::int64_t now) noexcept {
  if (empty()) base_ = std::max(base_, tick_of(now));
  if (!place(timer, expiry)) return false;
  ++size_;
  return true;
}

void TimerWheel::vacate(Level& level, unsigned index) noexcept {
  Bucket& bucket = level.buckets[index];
  if (bucket.entries.capacity() > kKeepCapacity) {
    std::vector<Entry>().swap(bucket.entries);
  } else {
    bucket.entries.clear();
  }
  bucket.earliest = kNever;
  bucket.holes = 0;
  level.occupied &= ~(std::uint64_t{1} << index);
}

// Closes the holes; the order stays.
void TimerWheel::compact(Bucket& bucket) noexcept {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < bucket.entries.size(); ++i) {
    if (i + kPrefetch < bucket.entries.size()) __builtin_prefetch(bucket.entries[i + kPrefetch].timer, 1);
    if (bucket.entries[i].timer == nullptr) continue;
    bucket.entries[i].timer->position = static_cast<std::uint32_t>(kept);
    bucket.entries[kept++] = bucket.entries[i];
  }
  bucket.entries.resize(kept);
  bucket.holes = 0;
}

void TimerWheel::erase(TimerNode& timer) noexcept {
  Level& level = *levels_[timer.bucket / kBuckets];
  const unsigned index = timer.bucket % kBuckets;
  Bucket& bucket = level.buckets[index];
  bucket.entries[timer.position].timer = nullptr;
  ++bucket.holes;
  --size_;
  if (bucket.holes == bucket.entries.size()) {
    vacate(level, index);
  } else if (bucket.holes > kFewHoles && bucket.holes > bucket.entries.size() / 4 * 3) {
    compact(bucket);
  }
}

// Puts the entries that are due to the front, sorted; those that are not stay behind them, in their order, with their
// positions and the bucket's `earliest` corrected for when the front is erased. Returns how many are due.
std::size_t TimerWheel::sort_due(Bucket& bucket, std::int64_t now) noexcept {
  std::vector<Entry>& entries = bucket.entries;
  std::erase_if(entries, [](const Entry& entry) { return entry.timer == nullptr; });
  bucket.holes = 0;
  bucket.earliest = kNever;
  auto rest = entries.end();
  if (!std::ranges::all_of(entries, [now](const Entry& entry) { return entry.expiry <= now; })) {
    rest = std::stable_partition(entries.begin(), entries.end(),
                                 [now](const Entry& entry) { return entry.expiry <= now; });
  }
  const std::span<Entry> due(entries.begin(), rest);
  if (!std::ranges::is_sorted(due, {}, &Entry::expiry) && !radix_sort(due)) {
    std::ranges::stable_sort(due, {}, &Entry::expiry);
  }
  for (auto entry = rest; entry != entries.end(); ++entry) {
    entry->timer->position = static_cast<std::uint32_t>(entry - rest);
    bucket.earliest = std::min(bucket.earliest, entry->expiry);
  }
  return due.size();
}

// Moves what is due in one bucket to the end of `due`, sorted; the rest stays, in order.
void TimerWheel::take_due(Level& level, unsigned index, std::int64_t now, Chain& due) noexcept {
  Bucket& bucket = level.buckets[index];
  std::vector<Entry>& entries = bucket.entries;
  if (bucket.earliest > now) return;
  const std::size_t count = sort_due(bucket, now);
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kPrefetch < count) __builtin_prefetch(entries[i + kPrefetch].timer, 1);
    append(due, *entries[i].timer);
  }
  size_ -= count;
  if (count == entries.size()) {
    vacate(level, index);
  } else {
    entries.erase(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(count));
  }
}

TimerWheel::Chain TimerWheel::take_due_of_level(unsigned number, std::uint64_t now_tick, std::int64_t now) noexcept {
  Chain due;
  if (!levels_[number]) return due;
  Level& level = *levels_[number];
  const std::uint64_t first = base_ >> (number * kLevelShift);
  const std::uint64_t passed = std::min<std::uint64_t>((now_tick >> (number * kLevelShift)) - first, kBuckets - 1);
  // Occupied buckets in order of time, the current one first.
  std::uint64_t ahead = std::rotr(level.occupied, static_cast<int>(first % kBuckets));
  ahead &= ~std::uint64_t{0} >> (kBuckets - 1 - passed);
  for (; ahead != 0; ahead &= ahead - 1) {
    const auto offset = static_cast<std::uint64_t>(std::countr_zero(ahead));
    take_due(level, static_cast<unsigned>((first + offset) % kBuckets), now, due);
  }
  return due;
}

// Moves the entries of a coarse bucket that the clock has reached to finer levels. Without memory for that they stay,
// which is slower and nothing else.
void TimerWheel::spread(unsigned number, unsigned index) noexcept {
  Level& level = *levels_[number];
  Bucket& bucket = level.buckets[index];
  if (bucket.entries.size() <= kSpreadAbove) return;
  std::size_t left = 0;
  for (std::size_t i = 0; i < bucket.entries.size(); ++i) {
    if (i + kPrefetch < bucket.entries.size()) __builtin_prefetch(bucket.entries[i + kPrefetch].timer, 1);
    const Entry entry = bucket.entries[i];
    if (entry.timer == nullptr ||
        (level_for(std::max(tick_of(entry.expiry), base_)) < number && place(*entry.timer, entry.expiry))) {
      continue;
    }
    entry.timer->position = static_cast<std::uint32_t>(left);
    bucket.entries[left++] = entry;
  }
  bucket.entries.resize(left);
  bucket.holes = 0;
  if (left == 0) vacate(level, index);
}

TimerWheel::Chain TimerWheel::expire(std::int64_t now) noexcept {
  const std::uint64_t now_tick = std::max(tick_of(now), base_);
  Chain due;
  if (empty()) {
    base_ = now_tick;
    return due;
  }
  // Coarse levels first: a timer that was armed earlier for the same time precedes.
  for (unsigned number = kLevels; number-- > 0;) due = merge(due, take_due_of_level(number, now_tick, now));
  base_ = now_tick;
  for (unsigned number = kLevels; --number > 0;) {
    if (!levels_[number]) continue;
    const auto index = static_cast<unsigned>((now_tick >> (number * kLevelShift)) % kBuckets);
    if ((levels_[number]->occupied >> index & 1) != 0) spread(number, index);
  }
  return due;
}

TimerWheel::Chain TimerWheel::clear() noexcept {
  Chain all;
  for (const std::unique_ptr<Level>& level : levels_) {
    if (!level) continue;
    for (std::uint64_t rest = level->occupied; rest != 0; rest &= rest - 1) {
      const auto index = static_cast<unsigned>(std::countr_zero(rest));
      Chain here;
      for (const Entry& entry : level->buckets[index].entries) {
        if (entry.timer != nullptr) append(here, *entry.timer);
      }
      concatenate(all, here);
      vacate(*level, index);
    }
  }
  size_ = 0;
  return all;
}

std::int64_t TimerWheel::next_expiry() const noexcept {
  std::int64_t next = kNever;
  if (empty()) return next;
  for (unsigned number = 0; number < kLevels; ++number) {
    const Level* level = levels_[number].get();
    if (level == nullptr || level->occupied == 0) continue;
    const auto current = static_cast<unsigned>((base_ >> (number * kLevelShift)) % kBuckets);
    const std::uint64_t ahead = std::rotr(level->occupied, static_cast<int>(current));
    const auto first = (current + static_cast<unsigned>(std::countr_zero(ahead))) % kBuckets;
    next = std::min(next, level->buckets[first].earliest);
  }
  return next;
}

}  // namespace stasis::detail
