// SPDX-License-Identifier: Apache-2.0
#include "stasis/hlist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

namespace stasis {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct Node {
  Node() = default;
  explicit Node(int k, std::string n = {}) : key(k), name(std::move(n)) {}
  int key = 0;
  std::string name;
  HListHook hook;
  HListHook by_name;
};

using Chain = HList<Node, &Node::hook>;

static_assert(sizeof(Chain) == sizeof(void*), "the point of an HList");
static_assert(sizeof(HListHook) == 2 * sizeof(void*));
static_assert(std::forward_iterator<Chain::iterator>);
static_assert(std::is_convertible_v<Chain::iterator, Chain::const_iterator>);

constinit Chain g_static_list;

std::vector<int> keys(const Chain& list) {
  std::vector<int> found;
  for (const Node& node : list) found.push_back(node.key);
  EXPECT_EQ(found.size(), list.count());
  EXPECT_EQ(found.empty(), list.empty());
  return found;
}

TEST(HList, PushesInsertsAndPops) {
  Node a(1), b(2), c(3), d(4), zero(0), half(9);
  Chain list;
  list.push_front(c);
  list.push_front(a);
  Chain::insert_after(a, b);
  Chain::insert_after(c, d);
  EXPECT_THAT(keys(list), ElementsAre(1, 2, 3, 4));
  Chain::insert_before(a, zero);
  Chain::insert_before(d, half);
  EXPECT_THAT(keys(list), ElementsAre(0, 1, 2, 3, 9, 4));
  EXPECT_EQ(Chain::next_of(half), &d);
  EXPECT_EQ(Chain::next_of(d), nullptr);
  EXPECT_EQ(list.pop_front(), &zero);
  EXPECT_EQ(&list.front(), &a);
  EXPECT_TRUE(g_static_list.empty());
  EXPECT_EQ(g_static_list.pop_front(), nullptr);
}

TEST(HList, ErasesFromTheElementAlone) {
  Node a(1), b(2), c(3);
  Chain list;
  for (Node* node : {&c, &b, &a}) list.push_front(*node);
  Chain::erase(b);
  EXPECT_FALSE(Chain::is_linked(b));
  EXPECT_THAT(keys(list), ElementsAre(1, 3));
  Chain::erase(a);  // first
  Chain::erase(c);  // last
  EXPECT_THAT(keys(list), IsEmpty());
  list.push_front(b);
  EXPECT_TRUE(Chain::erase_if_linked(b));
  EXPECT_FALSE(Chain::erase_if_linked(b));
}

TEST(HList, MovedHeadStaysErasable) {
  Node a(1), b(2), c(3);
  Chain list;
  list.push_front(b);
  list.push_front(a);
  Chain moved(std::move(list));
  EXPECT_TRUE(list.empty());  // NOLINT: the moved-from state is the point
  Chain::erase(a);            // must update the new head
  EXPECT_THAT(keys(moved), ElementsAre(2));
  list = std::move(moved);
  Chain::erase(b);
  EXPECT_TRUE(list.empty());
  list.push_front(a);
  Chain other;
  other.push_front(c);
  list = std::move(other);
  EXPECT_FALSE(Chain::is_linked(a));
  EXPECT_THAT(keys(list), ElementsAre(3));
}

TEST(HList, DyingListLeavesItsElementsUnlinked) {
  Node a(1), b(2);
  {
    Chain list;
    list.push_front(a);
    list.push_front(b);
  }
  EXPECT_FALSE(Chain::is_linked(a) || Chain::is_linked(b));
}

TEST(HList, SafeLoopSurvivesFreeingTheCurrentElement) {
  std::vector<std::unique_ptr<Node>> nodes;
  Chain list;
  for (int i = 4; i >= 0; --i) list.push_front(*nodes.emplace_back(std::make_unique<Node>(i)));
  for (Node& node : list.safe()) {
    if (node.key == 2) continue;
    Chain::erase(node);
    nodes[static_cast<std::size_t>(4 - node.key)].reset();
  }
  EXPECT_THAT(keys(list), ElementsAre(2));
}

struct KeyOf {
  int operator()(const Node& node) const { return node.key; }
};
struct NameOf {
  const std::string& operator()(const Node& node) const { return node.name; }
};
using Table = HashTable<Node, &Node::hook, KeyOf>;
using NameTable = HashTable<Node, &Node::by_name, NameOf>;

TEST(HashTable, FindsAmongMany) {
  std::vector<Node> nodes;
  nodes.reserve(5000);
  for (int i = 0; i < 5000; ++i) nodes.emplace_back(i * 64 - 1000);
  Table table;
  EXPECT_EQ(table.find(0), nullptr);
  for (Node& node : nodes) table.insert(node);
  EXPECT_EQ(table.size(), nodes.size());
  EXPECT_GE(table.bucket_count(), nodes.size()) << "did not grow";
  for (Node& node : nodes) {
    ASSERT_EQ(table.find(node.key), &node);
    ASSERT_EQ(table.find(node.key + 1), nullptr);
  }
  for (std::size_t i = 0; i < nodes.size(); i += 2) table.erase(nodes[i]);
  EXPECT_EQ(table.size(), nodes.size() / 2);
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    ASSERT_EQ(std::as_const(table).find(nodes[i].key), i % 2 == 0 ? nullptr : &nodes[i]);
  }
  table.clear();
  EXPECT_TRUE(table.empty());
  EXPECT_FALSE(Chain::is_linked(nodes[1]));
}

TEST(HashTable, EqualKeysAreFoundNewestFirstAlsoAfterGrowth) {
  std::vector<Node> nodes(200);
  Table table;
  for (int i = 0; i < 3; ++i) {
    nodes[static_cast<std::size_t>(i)].key = 7;
    table.insert(nodes[static_cast<std::size_t>(i)]);
  }
  for (int i = 3; i < 200; ++i) {
    nodes[static_cast<std::size_t>(i)].key = 1000 + i;
    table.insert(nodes[static_cast<std::size_t>(i)]);
  }
  Node* const found = table.find(7);
  ASSERT_EQ(found, &nodes[2]);
  Node* const next = table.find_next(*found);
  ASSERT_EQ(next, &nodes[1]);
  Node* const last = table.find_next(*next);
  ASSERT_EQ(last, &nodes[0]);
  EXPECT_EQ(table.find_next(*last), nullptr);
}

TEST(HashTable, KeysOfAnyHashableTypeAndTwoTablesPerObject) {
  Node a(1, "one"), b(2, "two");
  Table by_key;
  NameTable by_name;
  for (Node* node : {&a, &b}) by_key.insert(*node), by_name.insert(*node);
  EXPECT_EQ(by_name.find("two"), &b);
  EXPECT_EQ(by_name.find("three"), nullptr);
  by_key.erase(b);
  EXPECT_EQ(by_name.find("two"), &b);
}

TEST(HashTable, VisitorMayEraseWhatItVisits) {
  std::vector<Node> nodes;
  nodes.reserve(100);
  for (int i = 0; i < 100; ++i) nodes.emplace_back(i);
  Table table;
  for (Node& node : nodes) table.insert(node);
  std::set<int> seen;
  table.for_each([&](Node& node) {
    EXPECT_TRUE(seen.insert(node.key).second);
    if (node.key % 3 == 0) table.erase(node);
  });
  EXPECT_EQ(seen.size(), 100U);
  EXPECT_EQ(table.size(), 66U);
  EXPECT_EQ(table.find(3), nullptr);
  EXPECT_EQ(table.find(4), &nodes[4]);
}

#ifdef STASIS_DEBUG_LISTS
using HListDeathTest = testing::Test;

TEST(HListDeathTest, DebugModeNamesEachMisuse) {
  Node a(1);
  Chain list;
  EXPECT_DEATH(Chain::erase(a), "erase of an element that is on no hash list");
  list.push_front(a);
  EXPECT_DEATH(list.push_front(a), "added an element that is on a hash list already");
  EXPECT_DEATH(
      {
        for (Node& node : list) Chain::erase(node);
      },
      "walked on from an erased element");
  EXPECT_DEATH(a.~Node(), "died while on a hash list");
}
#endif

}  // namespace
}  // namespace stasis
