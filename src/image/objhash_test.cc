// SPDX-License-Identifier: Apache-2.0
#include "stasis/objhash.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace stasis {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::int32_t kMaxRef = std::numeric_limits<std::int32_t>::max();

// An object that counts its references and what was done to it. `owner` lets its callbacks see the test.
struct World;
struct Thing {
  int id = 0;
  int refs = 1;  // the test's own
  int grabs = 0;
  int saved = 0;
  std::vector<LastRef> drops;
  World* world = nullptr;
  std::vector<Thing*> points_to;
};

// What the callbacks of the running test do.
struct World {
  ObjHash* hash = nullptr;
  std::vector<int> dropped;  // ids, in order
  std::function<Result<void>(Thing&)> on_grab;
  std::function<void(Thing&)> on_drop;
  std::function<Result<void>(ObjRef, Thing&)> on_checkpoint;
  std::function<Result<void*>(ObjRef)> on_restore;
};

Result<void> grab_thing(void* object) {
  Thing& thing = *static_cast<Thing*>(object);
  if (thing.world != nullptr && thing.world->on_grab) STASIS_TRY(thing.world->on_grab(thing));
  ++thing.grabs;
  ++thing.refs;
  return {};
}
void drop_thing(void* object, LastRef last) {
  Thing& thing = *static_cast<Thing*>(object);
  --thing.refs;
  thing.drops.push_back(last);
  if (thing.world == nullptr) return;
  thing.world->dropped.push_back(thing.id);
  if (thing.world->on_drop) thing.world->on_drop(thing);
}
Result<void> checkpoint_thing(void* context, ObjRef ref, void* object) {
  Thing& thing = *static_cast<Thing*>(object);
  ++thing.saved;
  auto& world = *static_cast<World*>(context);
  if (world.on_checkpoint) return world.on_checkpoint(ref, thing);
  return {};
}
Result<void*> restore_thing(void* context, ObjRef ref) { return static_cast<World*>(context)->on_restore(ref); }

constexpr ObjType kThing = 1, kOther = 2, kBare = 7, kUnknown = 99;
// kBare stands out of order on purpose: such a row is searched for.
constexpr ObjOps kOps[] = {
    {.type = kObjIgnore, .name = "ignored"},
    {.type = kThing,
     .name = "thing",
     .grab = grab_thing,
     .drop = drop_thing,
     .checkpoint = checkpoint_thing,
     .restore = restore_thing},
    {.type = kOther, .name = "other", .grab = grab_thing, .drop = drop_thing},
    {.type = kBare, .name = "bare"},
};

class ObjHashTest : public testing::Test {
 protected:
  ObjHashTest() { world.hash = &hash; }
  Thing& make(int id) {
    things.push_back(std::make_unique<Thing>());
    things.back()->id = id;
    things.back()->world = &world;
    return *things.back();
  }
  std::vector<std::int32_t> refs() {
    std::vector<std::int32_t> found;
    hash.for_each([&](const ObjHash::Entry& entry) { found.push_back(entry.ref.value()); });
    return found;
  }

  World world;
  std::vector<std::unique_ptr<Thing>> things;
  ObjHash hash{kOps};
};

template <class T>
Errc code_of(const Result<T>& result) {
  EXPECT_FALSE(result.has_value());
  return result ? Errc{} : result.error().code();
}

TEST_F(ObjHashTest, FirstEncounterAddsLaterOnesFind) {
  Thing& a = make(1);
  Thing& b = make(2);
  EXPECT_EQ(*hash.lookup(&a, kThing), ObjRef());
  const auto first = hash.lookup_add(&a, kThing);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->ref, ObjRef(1));
  EXPECT_TRUE(first->first);
  EXPECT_EQ(hash.lookup_add(&b, kThing)->ref, ObjRef(2));
  const auto again = hash.lookup_add(&a, kThing);
  EXPECT_EQ(again->ref, ObjRef(1));
  EXPECT_FALSE(again->first);
  EXPECT_EQ(*hash.lookup(&a, kThing), ObjRef(1));
  EXPECT_EQ(a.grabs, 1);
  EXPECT_EQ(hash.size(), 2U);
}

TEST_F(ObjHashTest, BothKeysAreSearchableWhicheverWayAnObjectCameIn) {
  Thing& added = make(1);
  Thing& inserted = make(2);
  Thing& restored = make(3);
  ASSERT_TRUE(hash.lookup_add(&added, kThing));
  ASSERT_TRUE(hash.insert(&inserted, ObjRef(40), kThing));
  world.on_restore = [&](ObjRef) -> Result<void*> { return &restored; };
  EXPECT_EQ(*hash.restore_obj(&world, ObjRef(50), kThing), ObjRef(50));
  for (const auto& [thing, ref] : {std::pair{&added, 1}, {&inserted, 40}, {&restored, 50}}) {
    EXPECT_EQ(*hash.lookup(thing, kThing), ObjRef(ref));
    EXPECT_EQ(*hash.fetch(ObjRef(ref), kThing), thing);
    EXPECT_EQ(*hash.fetch<Thing>(ObjRef(ref), kThing), thing);
  }
}

TEST_F(ObjHashTest, FindTellsTheTypeToo) {
  Thing& near = make(1);
  Thing& far = make(2);
  ASSERT_TRUE(hash.insert(&near, ObjRef(3), kThing));
  ASSERT_TRUE(hash.insert(&far, ObjRef(2'000'000'000), kOther));
  for (const auto& [thing, ref, type] : {std::tuple{&near, 3, kThing}, {&far, 2'000'000'000, kOther}}) {
    const auto found = hash.find(ObjRef(ref));
    ASSERT_TRUE(found);
    EXPECT_EQ(found->object(), thing);
    EXPECT_EQ(found->ref, ObjRef(ref));
    EXPECT_EQ(found->type, type);
  }
  for (const int none : {-1, 0, 1, 1'999'999'999}) EXPECT_FALSE(hash.find(ObjRef(none))) << none;
}

TEST_F(ObjHashTest, NumbersAreKeysToo) {
  for (const std::uint64_t key : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    EXPECT_TRUE(hash.lookup_add(key, kBare)->first) << key;
    EXPECT_FALSE(hash.lookup_add(key, kBare)->first) << key;
  }
  EXPECT_EQ(*hash.lookup(std::uint64_t{0}, kBare), ObjRef(1));
  EXPECT_EQ(*hash.fetch(ObjRef(1), kBare), nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(*hash.fetch(ObjRef(3), kBare)), ~std::uintptr_t{0});
  ASSERT_TRUE(hash.insert(std::uint64_t{77}, ObjRef(9), kBare));
  EXPECT_EQ(*hash.lookup(std::uint64_t{77}, kBare), ObjRef(9));
}

TEST_F(ObjHashTest, TypeMismatchIsAnErrorEverywhere) {
  Thing& a = make(1);
  ASSERT_TRUE(hash.lookup_add(&a, kThing));
  EXPECT_EQ(code_of(hash.lookup(&a, kOther)), Errc::kTypeMismatch);
  EXPECT_EQ(code_of(hash.lookup_add(&a, kOther)), Errc::kTypeMismatch);
  EXPECT_EQ(code_of(hash.fetch(ObjRef(1), kOther)), Errc::kTypeMismatch);
  EXPECT_EQ(code_of(hash.fetch<Thing>(ObjRef(1), kOther)), Errc::kTypeMismatch);
  EXPECT_EQ(code_of(hash.checkpoint_obj(&world, &a, kOther)), Errc::kTypeMismatch);
  EXPECT_EQ(a.saved, 0);
  EXPECT_EQ(a.refs, 2);
  EXPECT_THAT(hash.fetch(ObjRef(1), kOther).error().message(), HasSubstr("object 1 is a thing, not a other"));
}

TEST_F(ObjHashTest, UnknownTypeNullPointerAndMissingObjectAreErrors) {
  Thing& a = make(1);
  EXPECT_EQ(code_of(hash.lookup(&a, kUnknown)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.lookup_add(&a, kUnknown)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.insert(&a, ObjRef(1), kUnknown)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.fetch(ObjRef(1), kUnknown)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(1), kUnknown)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.checkpoint_obj(&world, &a, kUnknown)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.lookup(nullptr, kThing)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.lookup_add(nullptr, kThing)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.insert(nullptr, ObjRef(1), kThing)), Errc::kInvalidArgument);
  EXPECT_EQ(code_of(hash.fetch(ObjRef(1), kThing)), Errc::kNotFound);
  EXPECT_EQ(code_of(hash.fetch(ObjRef(), kThing)), Errc::kNotFound);
  EXPECT_EQ(code_of(hash.fetch(ObjRef(-1), kThing)), Errc::kNotFound);
  EXPECT_EQ(code_of(hash.fetch(ObjRef(std::numeric_limits<std::int32_t>::min()), kThing)), Errc::kNotFound);
  EXPECT_EQ(hash.size(), 0U);
  EXPECT_EQ(a.refs, 1);
}

TEST_F(ObjHashTest, ObjrefsThatAreNotPositiveAreRefused) {
  Thing& a = make(1);
  int restored = 0;
  world.on_restore = [&](ObjRef) -> Result<void*> {
    ++restored;
    return &a;
  };
  for (const std::int32_t bad : {0, -1, std::numeric_limits<std::int32_t>::min()}) {
    EXPECT_EQ(code_of(hash.insert(&a, ObjRef(bad), kThing)), Errc::kInvalidArgument) << bad;
    EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(bad), kThing)), Errc::kInvalidArgument) << bad;
  }
  EXPECT_EQ(restored, 0);
  EXPECT_EQ(a.refs, 1);
}

TEST_F(ObjHashTest, DuplicatesAreRefusedByEitherKey) {
  Thing& a = make(1);
  Thing& b = make(2);
  ASSERT_TRUE(hash.insert(&a, ObjRef(5), kThing));
  EXPECT_EQ(code_of(hash.insert(&b, ObjRef(5), kThing)), Errc::kExists);
  EXPECT_EQ(code_of(hash.insert(&a, ObjRef(6), kThing)), Errc::kExists);
  EXPECT_EQ(code_of(hash.insert(&a, ObjRef(6), kOther)), Errc::kExists);
  ASSERT_TRUE(hash.insert(&b, ObjRef(kMaxRef), kThing));
  EXPECT_EQ(code_of(hash.insert(&make(3), ObjRef(kMaxRef), kThing)), Errc::kExists);
  EXPECT_EQ(a.refs, 2);
  EXPECT_EQ(b.refs, 2);
  EXPECT_EQ(hash.size(), 2U);
}

// The kernel spends the id of an object that could not be grabbed.
TEST_F(ObjHashTest, FailedGrabSpendsNoObjref) {
  Thing& a = make(1);
  Thing& b = make(2);
  world.on_grab = [](Thing& thing) -> Result<void> {
    if (thing.id == 1) return Error(Errc::kBusy, "not now");
    return {};
  };
  EXPECT_EQ(code_of(hash.lookup_add(&a, kThing)), Errc::kBusy);
  EXPECT_EQ(code_of(hash.insert(&a, ObjRef(1), kThing)), Errc::kBusy);
  EXPECT_EQ(hash.size(), 0U);
  EXPECT_EQ(*hash.lookup(&a, kThing), ObjRef());
  EXPECT_THAT(a.drops, IsEmpty());
  EXPECT_EQ(hash.lookup_add(&b, kThing)->ref, ObjRef(1));
  world.on_grab = nullptr;
  EXPECT_EQ(hash.lookup_add(&a, kThing)->ref, ObjRef(2));
}

TEST_F(ObjHashTest, NewObjrefsSkipTakenAndReservedOnes) {
  ASSERT_TRUE(hash.insert(&make(1), ObjRef(2), kThing));
  ASSERT_TRUE(hash.insert(&make(2), ObjRef(3), kThing));
  EXPECT_EQ(hash.lookup_add(&make(3), kThing)->ref, ObjRef(1));
  EXPECT_EQ(*hash.reserve(), ObjRef(4));
  EXPECT_EQ(*hash.reserve(), ObjRef(5));
  EXPECT_EQ(hash.lookup_add(&make(4), kThing)->ref, ObjRef(6));
  EXPECT_EQ(code_of(hash.fetch(ObjRef(4), kThing)), Errc::kNotFound);
  ASSERT_TRUE(hash.insert(&make(5), ObjRef(4), kThing));
  EXPECT_THAT(refs(), ElementsAre(1, 2, 3, 4, 6));
}

TEST_F(ObjHashTest, FarOutObjrefsAreFoundAndStayInOrder) {
  for (const std::int32_t ref : {kMaxRef, 100000, 5, kMaxRef - 1, 1 << 30}) {
    ASSERT_TRUE(hash.insert(&make(ref), ObjRef(ref), kThing)) << ref;
  }
  EXPECT_EQ(hash.lookup_add(&make(1), kThing)->ref, ObjRef(1));
  EXPECT_THAT(refs(), ElementsAre(1, 5, 100000, 1 << 30, kMaxRef - 1, kMaxRef));
  EXPECT_EQ((*hash.fetch<Thing>(ObjRef(1 << 30), kThing))->id, 1 << 30);
  hash.clear();
  EXPECT_THAT(world.dropped, ElementsAre(1, 5, 100000, 1 << 30, kMaxRef - 1, kMaxRef));
}

// Objrefs 1..n in reverse, in random order and with gaps: the array takes over what was far out at first.
TEST_F(ObjHashTest, AnyOrderOfObjrefsEndsInOrder) {
  constexpr std::int32_t kCount = 40000;
  std::vector<std::int32_t> order(kCount);
  for (std::int32_t i = 0; i < kCount; ++i) order[static_cast<std::size_t>(i)] = kCount - i;
  for (int round = 0; round < 3; ++round) {
    const std::int32_t gap = round == 2 ? 50000 : 1;
    for (const std::int32_t ref : order) {
      const std::uint64_t key = static_cast<std::uint64_t>(ref) * 64;
      ASSERT_TRUE(hash.insert(key, ObjRef(ref * gap - (gap - 1)), kBare));
    }
    std::int32_t expected = 1;
    bool ordered = true;
    hash.for_each([&](const ObjHash::Entry& entry) {
      const std::int32_t base = (entry.ref.value() + gap - 1) / gap;
      ordered = ordered && base == expected++ && entry.key == static_cast<std::uint64_t>(base) * 64;
    });
    EXPECT_TRUE(ordered) << "round " << round;
    EXPECT_EQ(expected, kCount + 1);
    for (const std::int32_t ref : order) {
      ASSERT_EQ(*hash.lookup(static_cast<std::uint64_t>(ref) * 64, kBare), ObjRef(ref * gap - (gap - 1)));
      ASSERT_TRUE(hash.fetch(ObjRef(ref * gap - (gap - 1)), kBare));
    }
    hash.clear();
    std::ranges::shuffle(order, std::mt19937(1));
  }
}

TEST_F(ObjHashTest, RandomUseMatchesAModel) {
  std::mt19937_64 random(3);
  std::map<std::uint64_t, std::int32_t> by_key;
  std::map<std::int32_t, std::uint64_t> by_ref;
  for (int step = 0; step < 100000; ++step) {
    // Few distinct upper parts, so that keys repeat and differ in high bits only.
    const std::uint64_t key = (random() % 300) << 56 | (random() % 300);
    if (random() % 4 == 0) {
      const auto ref = static_cast<std::int32_t>(random() % (random() % 8 == 0 ? kMaxRef : 60000)) + 1;
      const bool fresh = !by_key.contains(key) && !by_ref.contains(ref);
      ASSERT_EQ(hash.insert(key, ObjRef(ref), kBare).has_value(), fresh);
      if (fresh) by_key[key] = ref, by_ref[ref] = key;
    } else {
      const auto added = hash.lookup_add(key, kBare);
      ASSERT_TRUE(added);
      ASSERT_EQ(added->first, !by_key.contains(key));
      if (added->first) {
        ASSERT_FALSE(by_ref.contains(added->ref.value()));
        by_key[key] = added->ref.value();
        by_ref[added->ref.value()] = key;
      }
      ASSERT_EQ(added->ref.value(), by_key[key]);
    }
  }
  EXPECT_EQ(hash.size(), by_key.size());
  auto expected = by_ref.begin();
  hash.for_each([&](const ObjHash::Entry& entry) {
    ASSERT_NE(expected, by_ref.end());
    EXPECT_EQ(entry.ref.value(), expected->first);
    EXPECT_EQ(entry.key, expected->second);
    ++expected;
  });
  EXPECT_EQ(expected, by_ref.end());
}

TEST_F(ObjHashTest, GrowsThroughEveryTableSizeToHugePages) {
  constexpr std::uint64_t kCount = 1'000'000;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const auto added = hash.lookup_add(i * 96 + 0x7f00'0000'0000, kBare);
    ASSERT_TRUE(added && added->first);
    ASSERT_EQ(static_cast<std::uint64_t>(added->ref.value()), i + 1);
  }
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    wrong += *hash.lookup(i * 96 + 0x7f00'0000'0000, kBare) != ObjRef(static_cast<std::int32_t>(i + 1));
    wrong += *hash.lookup(i * 96 + 0x7f00'0000'0001, kBare) != ObjRef();
    wrong += reinterpret_cast<std::uintptr_t>(*hash.fetch(ObjRef(static_cast<std::int32_t>(i + 1)), kBare)) !=
             i * 96 + 0x7f00'0000'0000;
  }
  EXPECT_EQ(wrong, 0U);
}

TEST_F(ObjHashTest, ExpectChangesNothingButRoom) {
  Thing& a = make(1);
  ASSERT_TRUE(hash.insert(&a, ObjRef(100000), kThing));
  ASSERT_TRUE(hash.expect(200000));
  ASSERT_TRUE(hash.expect(10));
  EXPECT_EQ(*hash.lookup(&a, kThing), ObjRef(100000));
  EXPECT_EQ(*hash.fetch(ObjRef(100000), kThing), &a);
  EXPECT_EQ(hash.lookup_add(&make(2), kThing)->ref, ObjRef(1));
  EXPECT_EQ(code_of(hash.expect(std::size_t{1} << 40)), Errc::kOverflow);
}

TEST_F(ObjHashTest, CheckpointSavesEachSharedObjectOnce) {
  Thing& a = make(1);
  Thing& b = make(2);
  a.points_to = {&b};
  b.points_to = {&a};  // a cycle ends, as an object is known before it is saved
  std::vector<int> saved;
  world.on_checkpoint = [&](ObjRef ref, Thing& thing) -> Result<void> {
    EXPECT_EQ(*hash.lookup(&thing, kThing), ref);
    for (Thing* other : thing.points_to) STASIS_TRY(hash.checkpoint_obj(&world, other, kThing));
    saved.push_back(thing.id);
    return {};
  };
  EXPECT_EQ(*hash.checkpoint_obj(&world, &a, kThing), ObjRef(1));
  EXPECT_EQ(*hash.checkpoint_obj(&world, &b, kThing), ObjRef(2));
  EXPECT_EQ(*hash.checkpoint_obj(&world, &a, kThing), ObjRef(1));
  EXPECT_THAT(saved, ElementsAre(2, 1));
  EXPECT_EQ(a.saved, 1);
}

TEST_F(ObjHashTest, ObjectThatFailedToBeSavedIsNeverTakenForSaved) {
  Thing& a = make(1);
  world.on_checkpoint = [&](ObjRef, Thing&) -> Result<void> {
    for (int i = 0; i < 200; ++i) STASIS_TRY(hash.checkpoint_obj(&world, &make(100 + i), kBare));  // the table moves
    return Error(Errc::kNoSpace, "full");
  };
  EXPECT_EQ(code_of(hash.checkpoint_obj(&world, &a, kThing)), Errc::kNoSpace);
  EXPECT_EQ(code_of(hash.checkpoint_obj(&world, &a, kThing)), Errc::kInvalidArgument);
  EXPECT_EQ(a.saved, 1);
  for (int i = 0; i < 5000; ++i) ASSERT_TRUE(hash.lookup_add(&make(1000 + i), kBare));
  EXPECT_EQ(code_of(hash.checkpoint_obj(&world, &a, kThing)), Errc::kInvalidArgument);
  hash.clear();
  EXPECT_EQ(a.refs, 1);
}

TEST_F(ObjHashTest, NullEntriesOfTheTableDoNothing) {
  Thing& a = make(1);
  EXPECT_EQ(*hash.checkpoint_obj(&world, &a, kBare), ObjRef(1));
  EXPECT_EQ(*hash.checkpoint_obj(&world, &a, kBare), ObjRef(1));
  EXPECT_EQ(*hash.restore_obj(&world, ObjRef(2), kBare), ObjRef(2));
  EXPECT_EQ(*hash.fetch(ObjRef(2), kBare), nullptr);
  EXPECT_EQ(*hash.restore_obj(&world, ObjRef(3), kBare), ObjRef(3)) << "there may be several null objects";
  EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(3), kBare)), Errc::kExists);
  EXPECT_EQ(hash.size(), 3U);
  hash.clear();
  EXPECT_EQ(a.refs, 1);
}

TEST_F(ObjHashTest, IgnoredKindIsKnownToAnyTable) {
  ObjHash bare{std::span<const ObjOps>{}};
  Thing& a = make(1);
  EXPECT_EQ(bare.lookup_add(&a, kObjIgnore)->ref, ObjRef(1));
  EXPECT_EQ(*bare.checkpoint_obj(&world, &a, kObjIgnore), ObjRef(1));
  EXPECT_EQ(*bare.restore_obj(&world, ObjRef(2), kObjIgnore), ObjRef(2));
  EXPECT_EQ(code_of(bare.lookup(&a, kThing)), Errc::kInvalidArgument);
  bare.clear();
  EXPECT_EQ(a.refs, 1);
}

TEST_F(ObjHashTest, RestoreKeepsTheReferenceItIsHanded) {
  Thing& a = make(1);
  world.on_restore = [&](ObjRef ref) -> Result<void*> {
    EXPECT_EQ(ref, ObjRef(8));
    return &a;
  };
  ASSERT_TRUE(hash.restore_obj(&world, ObjRef(8), kThing));
  EXPECT_EQ(a.grabs, 0);
  EXPECT_THAT(a.drops, IsEmpty());
  EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(8), kThing)), Errc::kExists);
  EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(8), kOther)), Errc::kExists);
  EXPECT_THAT(a.drops, IsEmpty());
  hash.clear();
  EXPECT_THAT(a.drops, ElementsAre(LastRef::kYes));
}

TEST_F(ObjHashTest, FailedRestoreAddsAndDropsNothing) {
  world.on_restore = [](ObjRef) -> Result<void*> { return Error(Errc::kBadImage, "garbled"); };
  EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(8), kThing)), Errc::kBadImage);
  EXPECT_EQ(hash.size(), 0U);
  EXPECT_THAT(world.dropped, IsEmpty());
}

// The kernel's restore_obj drops twice.
TEST_F(ObjHashTest, RestoredObjectThatCantBeAddedIsDroppedExactlyOnce) {
  Thing& a = make(1);
  world.on_restore = [&](ObjRef) -> Result<void*> { return &a; };
  ASSERT_TRUE(hash.restore_obj(&world, ObjRef(1), kThing));
  a.refs = 1;
  EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(2), kThing)), Errc::kExists);  // the same object again
  EXPECT_THAT(a.drops, ElementsAre(LastRef::kYes));
}

TEST_F(ObjHashTest, ObjectThatRestoresItselfIsAnError) {
  Thing& inner = make(1);
  Thing& outer = make(2);
  int depth = 0;
  world.on_restore = [&](ObjRef ref) -> Result<void*> {
    if (depth++ == 0) {
      STASIS_TRY(hash.restore_obj(&world, ref, kThing));
      return &outer;
    }
    return &inner;
  };
  EXPECT_EQ(code_of(hash.restore_obj(&world, ObjRef(3), kThing)), Errc::kExists);
  EXPECT_THAT(outer.drops, ElementsAre(LastRef::kYes));
  EXPECT_THAT(inner.drops, IsEmpty());
  EXPECT_EQ(*hash.fetch(ObjRef(3), kThing), &inner);
}

TEST_F(ObjHashTest, GrabMayAddOtherObjectsAndEvenItself) {
  Thing& a = make(1);
  Thing& b = make(2);
  world.on_grab = [&](Thing& thing) -> Result<void> {
    if (thing.id == 1 && thing.grabs == 0 && *hash.lookup(&b, kThing) == ObjRef()) {
      STASIS_TRY(hash.lookup_add(&b, kThing));
    }
    return {};
  };
  EXPECT_EQ(hash.lookup_add(&a, kThing)->ref, ObjRef(2));
  EXPECT_EQ(*hash.lookup(&b, kThing), ObjRef(1));
  Thing& c = make(3);
  bool inside = false;
  world.on_grab = [&](Thing& thing) -> Result<void> {
    if (std::exchange(inside, true)) return {};
    STASIS_TRY(hash.lookup_add(&thing, kThing));
    return {};
  };
  const auto added = hash.lookup_add(&c, kThing);
  EXPECT_EQ(added->ref, ObjRef(3));
  EXPECT_FALSE(added->first);
  EXPECT_EQ(c.refs, 2) << "one reference is the hash's";
  EXPECT_THAT(c.drops, ElementsAre(LastRef::kNo));
  Thing& d = make(4);
  inside = false;
  EXPECT_EQ(code_of(hash.insert(&d, ObjRef(10), kThing)), Errc::kExists);
  EXPECT_EQ(d.refs, 2);
}

TEST_F(ObjHashTest, ClearDropsInObjrefOrderAndStartsOver) {
  for (const std::int32_t ref : {5, 2, 900000, 9}) ASSERT_TRUE(hash.insert(&make(ref), ObjRef(ref), kThing));
  ASSERT_TRUE(hash.lookup_add(&make(1), kThing));
  hash.clear();
  EXPECT_THAT(world.dropped, ElementsAre(1, 2, 5, 9, 900000));
  for (const auto& thing : things) {
    EXPECT_EQ(thing->refs, 1);
    EXPECT_THAT(thing->drops, ElementsAre(LastRef::kYes));
  }
  EXPECT_EQ(hash.size(), 0U);
  EXPECT_EQ(*hash.lookup(things[0].get(), kThing), ObjRef());
  EXPECT_EQ(code_of(hash.fetch(ObjRef(5), kThing)), Errc::kNotFound);
  hash.clear();  // idempotent
  EXPECT_EQ(world.dropped.size(), 5U);
  EXPECT_EQ(hash.lookup_add(things[1].get(), kThing)->ref, ObjRef(1));
}

// The kernel frees each entry at once, so that this reads freed memory.
TEST_F(ObjHashTest, DropSeesTheTableWhole) {
  std::vector<Thing*> all;
  for (int i = 1; i <= 300; ++i) {
    all.push_back(&make(i));
    ASSERT_TRUE(hash.lookup_add(all.back(), kThing));
  }
  int lookups = 0;
  world.on_drop = [&](Thing&) {
    for (Thing* other : all) {
      if (*hash.lookup(other, kThing) == ObjRef(other->id) && *hash.fetch(ObjRef(other->id), kThing) == other) {
        ++lookups;
      }
    }
    EXPECT_EQ(hash.size(), 300U);
  };
  hash.clear();
  EXPECT_EQ(lookups, 300 * 300);
}

TEST_F(ObjHashTest, DropMayNeitherAddNorClear) {
  Thing& a = make(1);
  Thing& b = make(2);
  ASSERT_TRUE(hash.lookup_add(&a, kThing));
  std::vector<Errc> codes;
  world.on_drop = [&](Thing&) {
    hash.clear();
    codes.push_back(code_of(hash.lookup_add(&b, kThing)));
    codes.push_back(code_of(hash.insert(&b, ObjRef(9), kThing)));
    codes.push_back(code_of(hash.restore_obj(&world, ObjRef(9), kThing)));
    codes.push_back(code_of(hash.reserve()));
    codes.push_back(code_of(hash.expect(5)));
    EXPECT_EQ(hash.lookup_add(&a, kThing)->ref, ObjRef(1)) << "finding is no adding";
  };
  hash.clear();
  EXPECT_THAT(codes, testing::AllOf(testing::SizeIs(5), testing::Each(Errc::kBusy)));
  EXPECT_EQ(a.refs, 1);
  EXPECT_EQ(b.refs, 1);
}

TEST_F(ObjHashTest, DestructionDropsToo) {
  Thing& a = make(1);
  {
    ObjHash local(kOps);
    ASSERT_TRUE(local.lookup_add(&a, kThing));
  }
  EXPECT_EQ(a.refs, 1);
}

TEST_F(ObjHashTest, FreeLaterHandsTheMemoryToTheSinkOnce) {
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(hash.lookup_add(&make(i), kThing));
  std::vector<std::move_only_function<void()>> given;
  const auto sink = [&](std::move_only_function<void()> work) { given.push_back(std::move(work)); };
  hash.free_later(sink);
  EXPECT_EQ(given.size(), 0U) << "the table is in use";
  EXPECT_EQ(hash.size(), 1000U);
  hash.clear();
  hash.free_later(sink);
  hash.free_later(sink);
  ASSERT_EQ(given.size(), 1U);
  ASSERT_TRUE(hash.lookup_add(&make(1), kThing)) << "the hash works on without that memory";
  given[0]();
  hash.clear();
  hash.free_later([](std::move_only_function<void()>) {});  // refused work: freed all the same (the leak check sees)
  hash.clear();
  ASSERT_TRUE(hash.lookup_add(&make(2), kThing));
  hash.clear();
  hash.free_later();
  hash.free_later();
}

TEST_F(ObjHashTest, ForEachVisitsWhatTheVisitorAdds) {
  ASSERT_TRUE(hash.lookup_add(&make(1), kThing));
  std::vector<int> seen;
  hash.for_each([&](const ObjHash::Entry& entry) {
    seen.push_back(static_cast<Thing*>(entry.object())->id);
    EXPECT_EQ(entry.type, kThing);
    const int id = seen.back();
    if (id < 100) {
      ASSERT_TRUE(hash.lookup_add(&make(id + 1), kThing));
    }
  });
  EXPECT_EQ(seen.size(), 100U);
  EXPECT_TRUE(std::ranges::is_sorted(seen));
}

}  // namespace
}  // namespace stasis
