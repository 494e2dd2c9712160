// SPDX-License-Identifier: Apache-2.0
#include "stasis/defer_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace stasis {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Counts who is alive, so that a test sees every missing and every double destruction.
struct Tracked {
  explicit Tracked(int* alive) : alive_(alive) { ++*alive_; }
  Tracked(Tracked&& other) noexcept : alive_(other.alive_) { ++*alive_; }
  Tracked(const Tracked& other) : alive_(other.alive_) { ++*alive_; }
  Tracked& operator=(const Tracked&) = delete;
  ~Tracked() { --*alive_; }
  int* alive_;
};

// What C-style works did.
struct Calls {
  std::vector<int> run;
  std::vector<int> dtor;
  Errc fail_with = Errc::kInternal;
};
struct RawWork {
  Calls* calls;
  int id;
};
Result<void> raw_ok(void* data) {
  auto* work = static_cast<RawWork*>(data);
  work->calls->run.push_back(work->id);
  return {};
}
Result<void> raw_fail(void* data) {
  auto* work = static_cast<RawWork*>(data);
  work->calls->run.push_back(work->id);
  return Error(work->calls->fail_with, "work " + std::to_string(work->id));
}
void raw_dtor(void* data) {
  auto* work = static_cast<RawWork*>(data);
  work->calls->dtor.push_back(work->id);
}

auto fails(std::vector<int>& order, int id) {
  return [&order, id]() -> Result<void> {
    order.push_back(id);
    return Error(Errc::kIo, std::to_string(id));
  };
}
auto succeeds(std::vector<int>& order, int id) {
  return [&order, id] { order.push_back(id); };
}

TEST(DeferQueue, RunsInOrderAndCounts) {
  DeferQueue queue;
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(queue.add(succeeds(order, i)));
  EXPECT_EQ(queue.size(), 5U);
  EXPECT_FALSE(queue.empty());
  EXPECT_THAT(order, IsEmpty());
  EXPECT_EQ(*queue.run(), 5U);
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.total_run(), 5U);
}

TEST(DeferQueue, EmptyRunIsZero) {
  DeferQueue queue;
  EXPECT_EQ(*queue.run(), 0U);
  queue.clear();
  EXPECT_EQ(queue.size(), 0U);
}

TEST(DeferQueue, TakesAnyCallable) {
  static int plain_calls = 0;
  struct Functor {
    void operator()() { ++*count; }
    int* count;
  };
  DeferQueue queue;
  int functor_calls = 0;
  int unique_value = 0;
  Functor functor{&functor_calls};
  plain_calls = 0;
  ASSERT_TRUE(queue.add(+[] { ++plain_calls; }));
  ASSERT_TRUE(queue.add(functor));  // copied
  ASSERT_TRUE(queue.add([&, p = std::make_unique<int>(42)] { unique_value = *p; }));
  ASSERT_TRUE(queue.add(std::move_only_function<void()>([&] { ++functor_calls; })));
  ASSERT_TRUE(queue.add([]() -> Result<void> { return {}; }));
  EXPECT_EQ(*queue.run(), 5U);
  EXPECT_EQ(plain_calls, 1);
  EXPECT_EQ(functor_calls, 2);
  EXPECT_EQ(unique_value, 42);
}

TEST(DeferQueue, CallableIsDestroyedAsSoonAsItHasRun) {
  DeferQueue queue;
  int alive = 0;
  std::vector<int> alive_seen;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(queue.add([&, t = Tracked(&alive)] { alive_seen.push_back(alive); }));
  EXPECT_EQ(alive, 3);
  ASSERT_TRUE(queue.run());
  EXPECT_THAT(alive_seen, ElementsAre(3, 2, 1));
  EXPECT_EQ(alive, 0);
}

TEST(DeferQueue, DestructionDestroysOnlyWhatDidNotRun) {
  int alive = 0, ran = 0;
  {
    DeferQueue queue;
    ASSERT_TRUE(queue.add([&, t = Tracked(&alive)] { ++ran; }));
    ASSERT_TRUE(queue.run());
    EXPECT_EQ(alive, 0);
    ASSERT_TRUE(queue.add([&, t = Tracked(&alive)] { ++ran; }));
    EXPECT_EQ(alive, 1);
  }
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(ran, 1);
}

TEST(DeferQueue, RunAllReturnsTheFirstErrorAfterAllHaveRun) {
  DeferQueue queue;
  std::vector<int> order;
  ASSERT_TRUE(queue.add(succeeds(order, 0)));
  ASSERT_TRUE(queue.add(fails(order, 1)));
  ASSERT_TRUE(queue.add(fails(order, 2)));
  ASSERT_TRUE(queue.add(succeeds(order, 3)));
  const auto result = queue.run();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kIo);
  EXPECT_EQ(result.error().message(), "1");
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(queue.total_run(), 4U);
  EXPECT_EQ(*queue.run(), 0U);
}

TEST(DeferQueue, StopAtFirstLeavesTheRestPending) {
  DeferQueue queue;
  std::vector<int> order;
  ASSERT_TRUE(queue.add(succeeds(order, 0)));
  ASSERT_TRUE(queue.add(fails(order, 1)));
  ASSERT_TRUE(queue.add(succeeds(order, 2)));
  ASSERT_TRUE(queue.add(fails(order, 3)));
  const auto first = queue.run(OnError::kStopAtFirst);
  ASSERT_FALSE(first);
  EXPECT_EQ(first.error().message(), "1");
  EXPECT_THAT(order, ElementsAre(0, 1));
  EXPECT_EQ(queue.size(), 2U);
  ASSERT_TRUE(queue.add(succeeds(order, 4)));
  const auto second = queue.run(OnError::kStopAtFirst);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message(), "3");
  EXPECT_EQ(*queue.run(OnError::kStopAtFirst), 1U);
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
}

// The kernel's queue loses what its last work adds.
TEST(DeferQueue, WorksAddedByAnyWorkRunToo) {
  DeferQueue queue;
  std::vector<int> order;
  ASSERT_TRUE(queue.add([&] {
    order.push_back(0);
    (void)queue.add(succeeds(order, 2));
  }));
  ASSERT_TRUE(queue.add([&] {
    order.push_back(1);
    (void)queue.add([&] {
      order.push_back(3);
      (void)queue.add(succeeds(order, 4));  // from the last one
    });
  }));
  EXPECT_EQ(*queue.run(), 5U);
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
}

TEST(DeferQueue, WorksAddedBeforeAnErrorStayPendingToo) {
  DeferQueue queue;
  std::vector<int> order;
  ASSERT_TRUE(queue.add([&]() -> Result<void> {
    (void)queue.add(succeeds(order, 1));
    return Error(Errc::kIo, "after adding");
  }));
  EXPECT_FALSE(queue.run(OnError::kStopAtFirst));
  EXPECT_EQ(queue.size(), 1U);
  EXPECT_EQ(*queue.run(), 1U);
  EXPECT_THAT(order, ElementsAre(1));
}

// The kernel's queue runs the entry again.
TEST(DeferQueue, NestedRunIsRefusedAndHarmless) {
  DeferQueue queue;
  std::vector<int> order;
  std::optional<Errc> nested;
  bool seen_running = false;
  ASSERT_TRUE(queue.add([&] {
    order.push_back(0);
    seen_running = queue.running();
    const auto result = queue.run();
    if (!result) nested = result.error().code();
  }));
  ASSERT_TRUE(queue.add(succeeds(order, 1)));
  EXPECT_FALSE(queue.running());
  EXPECT_EQ(*queue.run(), 2U);
  EXPECT_EQ(nested, Errc::kNested);
  EXPECT_TRUE(seen_running);
  EXPECT_FALSE(queue.running());
  EXPECT_THAT(order, ElementsAre(0, 1));
}

TEST(DeferQueue, AnotherQueueMayRunInsideAWork) {
  DeferQueue outer, inner;
  std::vector<int> order;
  ASSERT_TRUE(inner.add(succeeds(order, 1)));
  ASSERT_TRUE(outer.add([&] { EXPECT_EQ(*inner.run(), 1U); }));
  EXPECT_EQ(*outer.run(), 1U);
  EXPECT_THAT(order, ElementsAre(1));
}

// In the kernel this is a use after free.
TEST(DeferQueue, WorkMayDestroyItsQueue) {
  int alive = 0;
  std::vector<int> order;
  auto queue = std::make_unique<DeferQueue>();
  DeferQueue* const raw = queue.get();
  ASSERT_TRUE(raw->add([&, t = Tracked(&alive), text = std::string(100, 'x')] {
    queue.reset();
    order.push_back(static_cast<int>(text.size()));  // the closure is still there
  }));
  ASSERT_TRUE(raw->add([&, t = Tracked(&alive)] { order.push_back(1); }));
  EXPECT_EQ(*raw->run(), 1U);
  EXPECT_THAT(order, ElementsAre(100));
  EXPECT_EQ(alive, 0);
}

TEST(DeferQueue, WorkMayClearTheOthers) {
  DeferQueue queue;
  int alive = 0;
  std::vector<int> order;
  ASSERT_TRUE(queue.add([&, t = Tracked(&alive), text = std::string(100, 'x')] {
    queue.clear();
    EXPECT_EQ(alive, 1);
    (void)queue.add(succeeds(order, 2));
    order.push_back(static_cast<int>(text.size()));
  }));
  ASSERT_TRUE(queue.add([&, t = Tracked(&alive)] { order.push_back(1); }));
  EXPECT_EQ(*queue.run(), 2U);
  EXPECT_THAT(order, ElementsAre(100, 2));
  EXPECT_EQ(alive, 0);
}

TEST(DeferQueue, MoveTakesThePendingWorksAlong) {
  int alive = 0;
  std::vector<int> order;
  DeferQueue from;
  ASSERT_TRUE(from.add([&, t = Tracked(&alive)] { order.push_back(0); }));
  DeferQueue to(std::move(from));
  EXPECT_TRUE(from.empty());  // NOLINT: the moved-from state is the point
  ASSERT_TRUE(from.add(succeeds(order, 9)));
  ASSERT_TRUE(to.add([&, t = Tracked(&alive)] { order.push_back(1); }));
  EXPECT_EQ(*to.run(), 2U);
  ASSERT_TRUE(to.add([&, t = Tracked(&alive)] { order.push_back(2); }));
  to = std::move(from);  // destroys that one
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(*to.run(), 1U);
  EXPECT_THAT(order, ElementsAre(0, 1, 9));
}

TEST(DeferQueue, WorkMayMoveItsQueue) {
  std::vector<int> order;
  DeferQueue to;
  DeferQueue from;
  ASSERT_TRUE(from.add([&] {
    order.push_back(0);
    to = std::move(from);
    (void)to.add(succeeds(order, 2));
  }));
  ASSERT_TRUE(from.add(succeeds(order, 1)));
  EXPECT_EQ(*from.run(), 3U);
  EXPECT_THAT(order, ElementsAre(0, 1, 2));
  EXPECT_FALSE(to.running());
  ASSERT_TRUE(from.add(succeeds(order, 3)));
  EXPECT_EQ(*from.run(), 1U);
}

// seed: sizeof(pointer) + size was allocated, and the payload was only 8-aligned.
TEST(DeferQueue, RawAddCopiesItsData) {
  DeferQueue queue;
  std::array<std::uint8_t, 1000> data{};
  std::iota(data.begin(), data.end(), std::uint8_t{0});
  ASSERT_TRUE(queue.add(
      data.data(), data.size(),
      [](void* copy) -> Result<void> {
        const auto* bytes = static_cast<const std::uint8_t*>(copy);
        if (reinterpret_cast<std::uintptr_t>(copy) % 16 != 0) return Error(Errc::kInternal, "alignment");
        for (std::size_t i = 0; i < 1000; ++i) {
          if (bytes[i] != static_cast<std::uint8_t>(i)) return Error(Errc::kInternal, "contents");
        }
        return {};
      },
      nullptr));
  data.fill(0);
  EXPECT_TRUE(queue.run());
}

TEST(DeferQueue, RawFunctionReplacesItsDestructor) {
  Calls calls;
  {
    DeferQueue queue;
    for (int id : {0, 1, 2}) {
      const RawWork work{&calls, id};
      ASSERT_TRUE(queue.add(&work, sizeof work, id == 1 ? raw_fail : raw_ok, raw_dtor));
    }
    EXPECT_FALSE(queue.run(OnError::kStopAtFirst));  // a function that failed replaces its destructor all the same
  }
  EXPECT_THAT(calls.run, ElementsAre(0, 1));
  EXPECT_THAT(calls.dtor, ElementsAre(2));
}

TEST(DeferQueue, RawWorkWithoutDataOrDestructor) {
  static int runs;
  runs = 0;
  {
    DeferQueue queue;
    const auto count = [](void*) -> Result<void> {
      ++runs;
      return {};
    };
    ASSERT_TRUE(queue.add(nullptr, 0, count, nullptr));
    EXPECT_EQ(*queue.run(), 1U);
    ASSERT_TRUE(queue.add(nullptr, 0, count, nullptr));  // never runs, nothing to call
  }
  EXPECT_EQ(runs, 1);
}

TEST(DeferQueue, RawAddRefusesNonsense) {
  DeferQueue queue;
  const RawWork work{nullptr, 0};
  EXPECT_EQ(queue.add(&work, sizeof work, nullptr, raw_dtor).error().code(), Errc::kInvalidArgument);
  EXPECT_EQ(queue.add(nullptr, 8, raw_ok, raw_dtor).error().code(), Errc::kInvalidArgument);
  for (const std::size_t size : {std::numeric_limits<std::size_t>::max(), std::numeric_limits<std::size_t>::max() - 32,
                                 std::size_t{1} << 63, (std::size_t{1} << 46) + 1}) {
    EXPECT_EQ(queue.add(&work, size, raw_ok, raw_dtor).error().code(), Errc::kNoMemory) << size;
  }
  EXPECT_TRUE(queue.empty());
}

template <std::size_t kAlign>
struct alignas(kAlign) Aligned {
  std::array<char, kAlign> bytes{};
};

TEST(DeferQueue, OveralignedAndLargeCallablesMix) {
  DeferQueue queue;
  int good = 0;
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(queue.add([&good] { ++good; }));
    const auto check = [&good](const auto& value) {
      good += reinterpret_cast<std::uintptr_t>(&value) % alignof(decltype(value)) == 0;
    };
    ASSERT_TRUE(queue.add([check, a = Aligned<32>{}] { check(a); }));
    ASSERT_TRUE(queue.add([check, a = Aligned<64>{}] { check(a); }));
    ASSERT_TRUE(queue.add([check, a = Aligned<1024>{}] { check(a); }));
    ASSERT_TRUE(queue.add([&good, big = std::array<char, 5000>{}] { good += big[4999] == 0; }));
  }
  ASSERT_TRUE(queue.add([&good, big = std::array<char, 300000>{}] { good += big[299999] == 0; }));
  EXPECT_EQ(*queue.run(), 1001U);
  EXPECT_EQ(good, 1001);
}

// Through every chunk size, huge ones included, several times.
TEST(DeferQueue, ManyWorksOverSeveralRounds) {
  DeferQueue queue;
  for (int round = 0; round < 3; ++round) {
    std::uint64_t sum = 0;
    const std::size_t n = 60000;
    for (std::size_t i = 0; i < n; ++i) {
      std::array<std::uint64_t, 8> payload{};
      payload[7] = i;
      ASSERT_TRUE(queue.add([&sum, payload] { sum += payload[7]; }));
    }
    EXPECT_EQ(*queue.run(), n);
    EXPECT_EQ(sum, n * (n - 1) / 2);
  }
}

TEST(DeferQueue, CopyThatThrowsAddsNothing) {
  struct Throwing {
    Throwing() = default;
    Throwing(const Throwing&) { throw std::runtime_error("copy"); }
    Throwing& operator=(const Throwing&) = default;
    void operator()() const {}
  };
  DeferQueue queue;
  std::vector<int> order;
  ASSERT_TRUE(queue.add(succeeds(order, 0)));
  const Throwing throwing;
  EXPECT_THROW((void)queue.add(throwing), std::runtime_error);
  ASSERT_TRUE(queue.add(succeeds(order, 1)));
  EXPECT_EQ(*queue.run(), 2U);
  EXPECT_THAT(order, ElementsAre(0, 1));
}

TEST(UndoQueue, RunsNewestFirst) {
  UndoQueue undo;
  std::vector<int> order;
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(undo.add(succeeds(order, i)));
  EXPECT_EQ(undo.size(), 4U);
  EXPECT_EQ(*undo.run(), 4U);
  EXPECT_THAT(order, ElementsAre(3, 2, 1, 0));
  EXPECT_TRUE(undo.empty());
}

TEST(UndoQueue, RollsBackWhenItIsDestroyed) {
  std::vector<int> order;
  const auto operation = [&](bool last_step_fails) -> Result<void> {
    UndoQueue undo;
    STASIS_TRY(undo.add(succeeds(order, 0)));
    STASIS_TRY(undo.add(fails(order, 1)));  // an error does not keep the rest from being undone
    STASIS_TRY(undo.add(succeeds(order, 2)));
    if (last_step_fails) return Error(Errc::kIo, "last step");
    undo.dismiss();
    return {};
  };
  EXPECT_FALSE(operation(true));
  EXPECT_THAT(order, ElementsAre(2, 1, 0));
  order.clear();
  EXPECT_TRUE(operation(false));
  EXPECT_THAT(order, IsEmpty());
}

TEST(UndoQueue, DismissDestroysWithoutRunning) {
  int alive = 0, ran = 0;
  Calls calls;
  UndoQueue undo;
  ASSERT_TRUE(undo.add([&, t = Tracked(&alive)] { ++ran; }));
  const RawWork raw{&calls, 7};
  ASSERT_TRUE(undo.add(&raw, sizeof raw, raw_ok, raw_dtor));
  undo.dismiss();
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(ran, 0);
  EXPECT_THAT(calls.dtor, ElementsAre(7));
  EXPECT_THAT(calls.run, IsEmpty());
  EXPECT_EQ(*undo.run(), 0U);
}

TEST(UndoQueue, WorkAddedByAWorkRunsNext) {
  UndoQueue undo;
  std::vector<int> order;
  ASSERT_TRUE(undo.add(succeeds(order, 0)));
  ASSERT_TRUE(undo.add([&] {
    order.push_back(2);
    (void)undo.add(succeeds(order, 1));
  }));
  EXPECT_EQ(*undo.run(), 3U);
  EXPECT_THAT(order, ElementsAre(2, 1, 0));
}

TEST(UndoQueue, StopAtFirstLeavesTheRestForTheDestructor) {
  std::vector<int> order;
  {
    UndoQueue undo;
    ASSERT_TRUE(undo.add(succeeds(order, 0)));
    ASSERT_TRUE(undo.add(fails(order, 1)));
    EXPECT_FALSE(undo.run(OnError::kStopAtFirst));
    EXPECT_THAT(order, ElementsAre(1));
  }
  EXPECT_THAT(order, ElementsAre(1, 0));
}

TEST(UndoQueue, DestroyedByItsOwnWorkItStillRollsBackAll) {
  std::vector<int> order;
  auto undo = std::make_unique<UndoQueue>();
  UndoQueue* const raw = undo.get();
  ASSERT_TRUE(raw->add(fails(order, 0)));
  ASSERT_TRUE(raw->add([&] { undo.reset(); }));
  const auto result = raw->run();
  EXPECT_THAT(order, ElementsAre(0));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "0");
}

TEST(UndoQueue, AssignmentRollsBackWhatWasHeld) {
  std::vector<int> order;
  UndoQueue undo;
  ASSERT_TRUE(undo.add(succeeds(order, 0)));
  UndoQueue next;
  ASSERT_TRUE(next.add(succeeds(order, 1)));
  undo = std::move(next);
  EXPECT_THAT(order, ElementsAre(0));
  EXPECT_EQ(*undo.run(), 1U);
  EXPECT_THAT(order, ElementsAre(0, 1));
}

}  // namespace
}  // namespace stasis
