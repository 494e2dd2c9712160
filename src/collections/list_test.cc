// SPDX-License-Identifier: Apache-2.0
#include "stasis/list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <random>
#include <ranges>
#include <vector>

namespace stasis {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct Base {
  ListHook in_base;
};

struct Item : Base {
  Item() = default;
  explicit Item(int i) : id(i) {}
  int id = 0;
  ListHook hook;
  ListHook other_hook;
};

using Chain = List<Item, &Item::hook>;
using OtherChain = List<Item, &Item::other_hook>;

static_assert(std::bidirectional_iterator<Chain::iterator>);
static_assert(std::bidirectional_iterator<Chain::const_iterator>);
static_assert(std::bidirectional_iterator<Chain::reverse_iterator>);
static_assert(std::is_convertible_v<Chain::iterator, Chain::const_iterator>);
static_assert(!std::is_convertible_v<Chain::const_iterator, Chain::iterator>);
static_assert(!std::is_copy_constructible_v<Chain>);
static_assert(sizeof(ListHook) == 2 * sizeof(void*));
static_assert(sizeof(Chain) == 2 * sizeof(void*));

// A list must not need code at start-up.
constinit Chain g_static_list;

std::vector<int> ids(Chain& list) {
  std::vector<int> forward;
  for (const Item& item : std::as_const(list)) forward.push_back(item.id);
  std::vector<int> backward;
  for (auto it = std::as_const(list).rbegin(); it != std::as_const(list).rend(); ++it) backward.push_back(it->id);
  std::ranges::reverse(backward);
  EXPECT_EQ(forward, backward) << "the two directions disagree";
  EXPECT_EQ(forward.size(), list.count());
  EXPECT_EQ(forward.empty(), list.empty());
  EXPECT_EQ(forward.size() == 1, list.is_singular());
  return forward;
}

// Items 0..n-1 on a list in that order. The list is destroyed first.
struct Filled {
  explicit Filled(int n) {
    for (int i = 0; i < n; ++i) items.emplace_back(std::make_unique<Item>(i));
    for (auto& item : items) list.push_back(*item);
  }
  Item& operator[](int i) { return *items[static_cast<std::size_t>(i)]; }
  std::vector<std::unique_ptr<Item>> items;
  Chain list;
};

TEST(List, IsUsableBeforeMain) {
  Item item(1);
  EXPECT_TRUE(g_static_list.empty());
  g_static_list.push_back(item);
  EXPECT_THAT(ids(g_static_list), ElementsAre(1));
  g_static_list.erase(item);
}

TEST(List, PushesAndPopsAtBothEnds) {
  Item a(1), b(2), c(3);
  Chain list;
  list.push_back(b);
  list.push_back(c);
  list.push_front(a);
  EXPECT_THAT(ids(list), ElementsAre(1, 2, 3));
  EXPECT_EQ(&list.front(), &a);
  EXPECT_EQ(&list.back(), &c);
  EXPECT_TRUE(list.is_first(a));
  EXPECT_TRUE(list.is_last(c));
  EXPECT_FALSE(list.is_first(b) || list.is_last(b));
  EXPECT_EQ(list.pop_front(), &a);
  EXPECT_EQ(list.pop_back(), &c);
  EXPECT_EQ(list.pop_back(), &b);
  EXPECT_EQ(list.pop_back(), nullptr);
  EXPECT_EQ(list.pop_front(), nullptr);
  EXPECT_THAT(ids(list), IsEmpty());
}

TEST(List, InsertsBesideAnElementWithoutKnowingItsList) {
  Item a(1), b(2), c(3), d(4), e(5);
  Chain list;
  list.push_back(b);
  Chain::insert_before(b, a);
  Chain::insert_after(b, d);
  const auto at = list.insert(Chain::iterator_to(d), c);
  EXPECT_EQ(&*at, &c);
  list.insert(list.end(), e);
  EXPECT_THAT(ids(list), ElementsAre(1, 2, 3, 4, 5));
}

TEST(List, NeighboursEndInNull) {
  Filled f(3);
  EXPECT_EQ(f.list.next_of(f[0]), &f[1]);
  EXPECT_EQ(f.list.prev_of(f[1]), &f[0]);
  EXPECT_EQ(f.list.next_of(f[2]), nullptr);
  EXPECT_EQ(f.list.prev_of(f[0]), nullptr);
}

TEST(List, ErasedElementIsUnlinkedAndReaddable) {
  Filled f(3);
  EXPECT_TRUE(Chain::is_linked(f[1]));
  Chain::erase(f[1]);
  EXPECT_FALSE(Chain::is_linked(f[1]));
  EXPECT_THAT(ids(f.list), ElementsAre(0, 2));
  f.list.push_back(f[1]);
  EXPECT_THAT(ids(f.list), ElementsAre(0, 2, 1));
  EXPECT_TRUE(Chain::erase_if_linked(f[1]));
  EXPECT_FALSE(Chain::erase_if_linked(f[1]));
  const auto after = f.list.erase(f.list.begin());
  EXPECT_EQ(&*after, &f[2]);
}

TEST(List, HookOfABaseClassServesToo) {
  Item a(1), b(2);
  List<Item, &Item::in_base> list;
  list.push_back(a);
  list.push_front(b);
  EXPECT_EQ(list.front().id, 2);
  EXPECT_EQ(list.back().id, 1);
}

TEST(List, ObjectIsOnSeveralListsAtOnce) {
  Filled f(3);
  OtherChain other;
  for (int i : {2, 0, 1}) other.push_back(f[i]);
  Chain::erase(f[0]);
  EXPECT_TRUE(OtherChain::is_linked(f[0]));
  std::vector<int> seen;
  for (const Item& item : other) seen.push_back(item.id);
  EXPECT_THAT(seen, ElementsAre(2, 0, 1));
  EXPECT_THAT(ids(f.list), ElementsAre(1, 2));
}

TEST(List, CopyOfALinkedObjectStartsUnlinked) {
  Filled f(2);
  Item copy = f[0];
  EXPECT_FALSE(Chain::is_linked(copy));
  copy.id = 9;
  f.list.push_back(copy);
  f[1] = copy;  // assignment leaves the place in the list alone
  EXPECT_THAT(ids(f.list), ElementsAre(0, 9, 9));
  Chain::erase(copy);
}

TEST(List, DyingListLeavesItsElementsUnlinked) {
  Item a(1);
  {
    Chain list;
    list.push_back(a);
  }
  EXPECT_FALSE(Chain::is_linked(a));
}

TEST(List, MoveTakesTheElementsOver) {
  Filled f(3);
  Chain to(std::move(f.list));
  EXPECT_TRUE(f.list.empty());  // NOLINT: the moved-from state is the point
  EXPECT_THAT(ids(to), ElementsAre(0, 1, 2));
  Item old(7);
  f.list.push_back(old);
  f.list = std::move(to);  // lets go of `old`
  EXPECT_FALSE(Chain::is_linked(old));
  EXPECT_THAT(ids(f.list), ElementsAre(0, 1, 2));
  EXPECT_TRUE(to.empty());  // NOLINT
  Chain empty;
  f.list.swap(empty);
  EXPECT_TRUE(f.list.empty());
  EXPECT_THAT(ids(empty), ElementsAre(0, 1, 2));
  empty.clear();
}

TEST(List, MovesElementsBetweenListsAndEnds) {
  Filled f(3);
  Chain second;
  second.move_to_back(f[1]);
  second.move_to_front(f[2]);
  EXPECT_THAT(ids(f.list), ElementsAre(0));
  EXPECT_THAT(ids(second), ElementsAre(2, 1));
  second.move_to_back(f[2]);
  EXPECT_THAT(ids(second), ElementsAre(1, 2));
}

TEST(List, ReplacesAndSwapsElements) {
  Filled f(4);
  Item fresh(9);
  Chain second;
  Chain::replace(f[2], fresh);
  EXPECT_FALSE(Chain::is_linked(f[2]));
  EXPECT_THAT(ids(f.list), ElementsAre(0, 1, 9, 3));
  Chain::swap_elements(f[0], f[1]);  // neighbours
  EXPECT_THAT(ids(f.list), ElementsAre(1, 0, 9, 3));
  Chain::swap_elements(fresh, f[0]);  // neighbours, the other way round
  EXPECT_THAT(ids(f.list), ElementsAre(1, 9, 0, 3));
  Chain::swap_elements(f[1], f[3]);  // the ends
  EXPECT_THAT(ids(f.list), ElementsAre(3, 9, 0, 1));
  Chain::swap_elements(f[0], f[0]);
  EXPECT_THAT(ids(f.list), ElementsAre(3, 9, 0, 1));
  second.push_back(f[2]);
  Chain::swap_elements(f[2], fresh);  // over two lists
  EXPECT_THAT(ids(f.list), ElementsAre(3, 2, 0, 1));
  EXPECT_THAT(ids(second), ElementsAre(9));
  second.clear();
}

TEST(List, SpliceEmptiesTheOtherList) {
  Filled a(2), b(2), c(2), empty(0);
  for (int i = 0; i < 2; ++i) b[i].id += 10, c[i].id += 20;
  a.list.splice_back(b.list);
  EXPECT_THAT(ids(b.list), IsEmpty());
  a.list.splice_front(c.list);
  EXPECT_THAT(ids(a.list), ElementsAre(20, 21, 0, 1, 10, 11));
  a.list.splice_back(empty.list);
  a.list.splice_front(empty.list);
  EXPECT_EQ(a.list.count(), 6U);
  b.list.push_back(empty.items.emplace_back(std::make_unique<Item>(5)).operator*());
  a.list.splice(std::next(a.list.begin(), 2), b.list);
  EXPECT_THAT(ids(a.list), ElementsAre(20, 21, 5, 0, 1, 10, 11));
  a.list.clear();
}

TEST(List, StaleHeadWorksAgainAfterReset) {
  Filled a(2), b(2);
  b[0].id = 10, b[1].id = 11;
  a.list.splice_back(b.list, kLeaveStale);
  EXPECT_THAT(ids(a.list), ElementsAre(0, 1, 10, 11));
  b.list.reset();
  EXPECT_THAT(ids(b.list), IsEmpty());
  Chain to;
  to.splice_front(a.list, kLeaveStale);  // `a.list` is destroyed stale: nothing may happen to the elements
  EXPECT_THAT(ids(to), ElementsAre(0, 1, 10, 11));
  to.clear();
}

TEST(List, SplicesPartsAndCuts) {
  Filled f(6);
  Chain to;
  f.list.cut_before(std::next(f.list.begin(), 2), to);
  EXPECT_THAT(ids(to), ElementsAre(0, 1));
  EXPECT_THAT(ids(f.list), ElementsAre(2, 3, 4, 5));
  to.splice(to.begin(), Chain::iterator_to(f[3]), Chain::iterator_to(f[5]));
  EXPECT_THAT(ids(to), ElementsAre(3, 4, 0, 1));
  EXPECT_THAT(ids(f.list), ElementsAre(2, 5));
  to.splice(to.end(), to.begin(), std::next(to.begin(), 2));  // within one list
  EXPECT_THAT(ids(to), ElementsAre(0, 1, 3, 4));
  // Nothing moves: an empty range, and a range put where it stands.
  to.splice(to.begin(), f.list.begin(), f.list.begin());
  to.splice(to.begin(), to.begin(), to.end());
  to.splice(to.end(), to.begin(), to.end());
  EXPECT_THAT(ids(to), ElementsAre(0, 1, 3, 4));
  f.list.cut_before(f.list.begin(), to);
  EXPECT_THAT(ids(f.list), ElementsAre(2, 5));
  f.list.cut_before(f.list.end(), to);
  EXPECT_THAT(ids(to), ElementsAre(0, 1, 3, 4, 2, 5));
  EXPECT_TRUE(f.list.empty());
  to.clear();
}

TEST(List, RotatesAndReverses) {
  Filled f(4);
  f.list.rotate_left();
  EXPECT_THAT(ids(f.list), ElementsAre(1, 2, 3, 0));
  f.list.rotate_to(f[3]);
  EXPECT_THAT(ids(f.list), ElementsAre(3, 0, 1, 2));
  f.list.rotate_to(f[3]);
  EXPECT_THAT(ids(f.list), ElementsAre(3, 0, 1, 2));
  f.list.reverse();
  EXPECT_THAT(ids(f.list), ElementsAre(2, 1, 0, 3));
  Chain empty;
  empty.rotate_left();
  empty.reverse();
  EXPECT_THAT(ids(empty), IsEmpty());
  Filled one(1);
  one.list.rotate_left();
  one.list.rotate_to(one[0]);
  one.list.reverse();
  EXPECT_THAT(ids(one.list), ElementsAre(0));
}

TEST(List, SafeLoopSurvivesErasingTheCurrentElement) {
  Filled f(6);
  for (Item& item : f.list.safe()) {
    if (item.id % 2 == 0) {
      f.list.erase(item);
      f.items[static_cast<std::size_t>(item.id)].reset();  // freed: its links may not be read again
    }
  }
  EXPECT_THAT(ids(f.list), ElementsAre(1, 3, 5));
  std::vector<int> backwards;
  Chain to;
  for (Item& item : f.list.safe_reverse()) {
    backwards.push_back(item.id);
    to.move_to_back(item);
  }
  EXPECT_THAT(backwards, ElementsAre(5, 3, 1));
  EXPECT_THAT(ids(to), ElementsAre(5, 3, 1));
  for (Item& item : f.list.safe()) ADD_FAILURE() << item.id;
  to.clear();
}

TEST(List, RemoveIfDisposesOfWhatItTookOff) {
  Filled f(5);
  std::vector<int> disposed;
  const std::size_t removed = f.list.remove_if([](const Item& item) { return item.id != 2; },
                                               [&](Item& item) {
                                                 EXPECT_FALSE(Chain::is_linked(item));
                                                 disposed.push_back(item.id);
                                               });
  EXPECT_EQ(removed, 4U);
  EXPECT_THAT(disposed, ElementsAre(0, 1, 3, 4));
  EXPECT_THAT(ids(f.list), ElementsAre(2));
}

TEST(List, SortIsStableForEveryLength) {
  std::mt19937 random(7);
  for (int n : {0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100, 1000, 4097}) {
    Filled f(n);
    std::vector<std::pair<int, int>> expected;
    for (int i = 0; i < n; ++i) {
      f[i].id = static_cast<int>(random() % 16) * 10000 + i;  // key and original place
      expected.emplace_back(f[i].id / 10000, f[i].id % 10000);
    }
    std::ranges::stable_sort(expected, {}, &std::pair<int, int>::first);
    f.list.sort([](const Item& a, const Item& b) { return a.id / 10000 < b.id / 10000; });
    std::vector<std::pair<int, int>> got;
    for (const int id : ids(f.list)) got.emplace_back(id / 10000, id % 10000);
    EXPECT_EQ(got, expected) << "n = " << n;
  }
}

TEST(List, SortComparisonOfTheKernelKindGetsTheEarlierElementFirst) {
  Filled f(200);
  for (int i = 0; i < 200; ++i) f[i].id = i % 7 * 1000 + i;
  std::vector<int> expected = ids(f.list);
  std::ranges::stable_sort(expected, {}, [](int id) { return id / 1000; });
  // Only 0 and 1, which is all that the kernel's contract asks for.
  f.list.sort_cmp([&](const Item& earlier, const Item& later) {
    EXPECT_LT(earlier.id % 1000, later.id % 1000) << "the elements were exchanged";
    return earlier.id / 1000 > later.id / 1000 ? 1 : 0;
  });
  EXPECT_EQ(ids(f.list), expected);
}

TEST(List, RandomOperationsMatchAModel) {
  std::mt19937 random(1);
  Filled f(40);
  Chain spare;
  std::vector<int> model = ids(f.list);
  std::vector<int> off;
  for (int step = 0; step < 20000; ++step) {
    const auto at = [&](const std::vector<int>& v) { return random() % v.size(); };
    switch (random() % 6) {
      case 0:
        if (model.empty()) break;
        {
          const auto i = at(model);
          Chain::erase(f[model[i]]);
          off.push_back(model[i]);
          model.erase(model.begin() + static_cast<std::ptrdiff_t>(i));
        }
        break;
      case 1:
        if (off.empty()) break;
        f.list.push_front(f[off.back()]);
        model.insert(model.begin(), off.back());
        off.pop_back();
        break;
      case 2:
        if (off.empty() || model.empty()) break;
        {
          const auto i = at(model);
          Chain::insert_after(f[model[i]], f[off.back()]);
          model.insert(model.begin() + static_cast<std::ptrdiff_t>(i) + 1, off.back());
          off.pop_back();
        }
        break;
      case 3:
        if (model.empty()) break;
        {
          const auto i = at(model);
          f.list.rotate_to(f[model[i]]);
          std::ranges::rotate(model, model.begin() + static_cast<std::ptrdiff_t>(i));
        }
        break;
      case 4:
        if (model.empty()) break;
        {
          const auto i = at(model);
          f.list.cut_before(Chain::iterator_to(f[model[i]]), spare);
          f.list.splice_back(spare);
          std::ranges::rotate(model, model.begin() + static_cast<std::ptrdiff_t>(i));
        }
        break;
      default:
        f.list.reverse();
        std::ranges::reverse(model);
    }
    if (step % 64 != 0) continue;
    ASSERT_EQ(ids(f.list), model) << "step " << step;
  }
  EXPECT_EQ(ids(f.list), model);
}

#ifdef STASIS_DEBUG_LISTS
using ListDeathTest = testing::Test;

TEST(ListDeathTest, DebugModeNamesEachMisuse) {
  Filled f(2);
  EXPECT_DEATH(f.list.push_back(f[0]), "added an element that is on a list already");
  Item loose(5);
  EXPECT_DEATH(Chain::erase(loose), "erase of an element that is on no list");
  EXPECT_DEATH(f.items.pop_back(), "died while on a list");
  EXPECT_DEATH(
      {
        for (Item& item : f.list) f.list.erase(item);
      },
      "walked on from an erased element");
  EXPECT_DEATH(
      {
        for (Item& item : f.list.safe()) {
          if (item.id == 0) Chain::erase(f[1]);  // the one that the loop has saved
        }
      },
      "walked on from an erased element");
  Chain stale;
  stale.push_back(loose);
  f.list.splice_back(stale, kLeaveStale);
  EXPECT_DEATH((void)stale.empty(), "walked on from an erased element");
  Chain empty;
  EXPECT_DEATH((void)empty.front(), "front or back of an empty list");
  f.list.clear();
}

TEST(List, DebugModePoisonsErasedHooks) {
  Filled f(2);
  Chain::erase(f[0]);
  void* links[2];
  std::memcpy(links, &f[0].hook, sizeof links);
  EXPECT_NE(links[0], nullptr);
  EXPECT_NE(links[0], links[1]);
  EXPECT_FALSE(Chain::is_linked(f[0]));
  f.list.push_back(f[0]);
  EXPECT_THAT(ids(f.list), ElementsAre(1, 0));
}
#endif

}  // namespace
}  // namespace stasis
