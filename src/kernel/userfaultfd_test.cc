// SPDX-License-Identifier: Apache-2.0
#include "kernel/userfaultfd.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include "kernel/page_size.h"

namespace stasis::kernel {
namespace {

using Answer = Userfaultfd::Answer;
using End = Userfaultfd::Filled::End;

// Memory of this process; a userfaultfd that needs no privilege.
class UserfaultfdTest : public ::testing::Test {
 protected:
  void enable(std::uint64_t features, UffdFaults faults = UffdFaults::kUserMode) {
    auto made = Userfaultfd::create(faults);
    if (!made) GTEST_SKIP() << made.error().to_string();
    uffd_ = *std::move(made);
    if (auto enabled = uffd_.enable(features); !enabled) GTEST_SKIP() << enabled.error().to_string();
  }
  void map(std::size_t pages) {
    void* const area = ::mmap(nullptr, pages * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(area, MAP_FAILED);
    ::madvise(area, pages * page_, MADV_NOHUGEPAGE);
    area_ = static_cast<std::byte*>(area);
    size_ = pages * page_;
  }
  void TearDown() override {
    uffd_ = Userfaultfd();
    if (area_) ::munmap(area_, size_);
  }

  PageRun pages(std::size_t first, std::size_t count) const {
    const auto start = reinterpret_cast<std::uint64_t>(area_) + first * page_;
    return {start, start + count * page_};
  }
  volatile unsigned char& at(std::size_t page) { return reinterpret_cast<unsigned char*>(area_)[page * page_]; }
  int value_at(std::size_t page) { return at(page); }
  std::vector<std::byte> filled_with(int value, std::size_t count) const {
    return std::vector<std::byte>(count * page_, std::byte(value));
  }

  // The next event; waits for it.
  UffdEvent next() {
    for (;;) {
      pollfd wanted{.fd = uffd_.fd(), .events = POLLIN, .revents = 0};
      ::poll(&wanted, 1, -1);
      auto events = uffd_.read_events();
      EXPECT_TRUE(events) << events.error().to_string();
      if (!events) return UffdFault{};
      if (events->empty()) continue;
      EXPECT_EQ(events->size(), 1u);
      return std::move(events->front());
    }
  }

  std::size_t page_ = page_size();
  Userfaultfd uffd_;
  std::byte* area_ = nullptr;
  std::size_t size_ = 0;
};

TEST_F(UserfaultfdTest, WhatTheKernelLacksIsRefusedAndWhatIsWelcomeIsLeftOut) {
  auto made = Userfaultfd::create(UffdFaults::kUserMode);
  if (!made) GTEST_SKIP() << made.error().to_string();
  constexpr std::uint64_t kNobodyHas = std::uint64_t{1} << 62;
  EXPECT_EQ(made->enable(kNobodyHas).error().code(), Errc::kKernelFeature);
  const auto enabled = made->enable(uffd::kThreadId, kNobodyHas);
  ASSERT_TRUE(enabled) << enabled.error().to_string();
  EXPECT_EQ(*enabled, uffd::kThreadId);
}

TEST_F(UserfaultfdTest, WhoTouchesAMissingPageWaitsForItsContents) {
  enable(uffd::kThreadId);
  map(4);
  ASSERT_TRUE(uffd_.register_range(pages(0, 4), Userfaultfd::kMissing));
  std::atomic<int> seen = 0;
  std::thread reader([&] { seen = value_at(2); });
  const auto event = next();
  const auto* const fault = std::get_if<UffdFault>(&event);
  ASSERT_NE(fault, nullptr);
  EXPECT_EQ(fault->address, pages(2, 1).start);
  EXPECT_FALSE(fault->write || fault->protected_page);
  EXPECT_NE(fault->thread, static_cast<std::uint32_t>(::getpid()));
  const auto done = uffd_.copy(pages(2, 1).start, filled_with(42, 1));
  ASSERT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(done->bytes, page_);
  reader.join();
  EXPECT_EQ(seen, 42);
}

TEST_F(UserfaultfdTest, FillingStopsAtAPageThatIsThereAndAtTheEndOfWhatIsRegistered) {
  enable(0);
  map(6);
  at(2) = 7;
  ASSERT_TRUE(uffd_.register_range(pages(0, 4), Userfaultfd::kMissing));
  auto done = uffd_.copy(pages(0, 4).start, filled_with(1, 4));
  ASSERT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(done->bytes, 2 * page_);
  done = uffd_.copy(pages(2, 1).start, filled_with(1, 2));
  ASSERT_TRUE(done);
  EXPECT_EQ(done->end, End::kPageThere);
  done = uffd_.zero(pages(3, 1));
  ASSERT_TRUE(done);
  EXPECT_EQ(done->bytes, page_);
  done = uffd_.copy(pages(5, 1).start, filled_with(1, 1));
  ASSERT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(done->end, End::kNotRegistered);
  EXPECT_EQ(value_at(1), 1);
  EXPECT_EQ(value_at(2), 7);
  EXPECT_EQ(value_at(3), 0);
}

TEST_F(UserfaultfdTest, AHeldWriteHappensWhenItIsLetGo) {
  enable(uffd::kPagefaultWp);
  map(2);
  at(0) = 1;
  at(1) = 1;
  ASSERT_TRUE(uffd_.register_range(pages(0, 2), Userfaultfd::kWriteProtect));
  const auto held = uffd_.write_protect(pages(0, 2), true);
  ASSERT_TRUE(held) << held.error().to_string();
  EXPECT_EQ(*held, Answer::kDone);
  std::thread writer([&] { at(1) = 2; });
  const auto event = next();
  const auto* const fault = std::get_if<UffdFault>(&event);
  ASSERT_NE(fault, nullptr);
  EXPECT_EQ(fault->address, pages(1, 1).start);
  EXPECT_TRUE(fault->write && fault->protected_page);
  EXPECT_EQ(value_at(1), 1);
  EXPECT_TRUE(uffd_.write_protect(pages(1, 1), false));
  writer.join();
  EXPECT_EQ(value_at(1), 2);
}

TEST_F(UserfaultfdTest, UnregisteringLetsWaitersGo) {
  enable(0);
  map(1);
  ASSERT_TRUE(uffd_.register_range(pages(0, 1), Userfaultfd::kMissing));
  std::thread reader([&] { EXPECT_EQ(value_at(0), 0); });
  static_cast<void>(next());
  EXPECT_TRUE(uffd_.unregister(pages(0, 1)));
  EXPECT_TRUE(uffd_.wake(pages(0, 1)));
  reader.join();
}

TEST_F(UserfaultfdTest, AnAreaHasOneUserfaultfd) {
  enable(0);
  map(1);
  ASSERT_TRUE(uffd_.register_range(pages(0, 1), Userfaultfd::kMissing));
  auto other = Userfaultfd::create(UffdFaults::kUserMode);
  ASSERT_TRUE(other && other->enable(0));
  EXPECT_EQ(other->register_range(pages(0, 1), Userfaultfd::kMissing).error().code(), Errc::kBusy);
}

TEST_F(UserfaultfdTest, TrackingTellsWhatWasWrittenAndKeepsNobodyWaiting) {
  enable(uffd::kPagefaultWp | uffd::kWpUnpopulated | uffd::kWpAsync);
  map(16);
  for (std::size_t i = 0; i < 8; ++i) at(i) = 1;
  const auto proc = ProcDir::open(HostPid(::getpid()));
  ASSERT_TRUE(proc);
  const auto scanner = PageScanner::open(*proc);
  ASSERT_TRUE(scanner);
  if (!scanner->uses_ioctl()) GTEST_SKIP() << "needs PAGEMAP_SCAN";
  std::vector<PageRun> written;
  EXPECT_EQ(scanner->take_written(pages(0, 16).start, pages(0, 16).end, written).error().code(), Errc::kNotPermitted);
  ASSERT_TRUE(uffd_.register_range(pages(0, 16), Userfaultfd::kWriteProtect));
  ASSERT_TRUE(scanner->take_written(pages(0, 16).start, pages(0, 16).end, written));
  EXPECT_EQ(written.front().start, pages(0, 1).start);
  const auto since = [&] {
    written.clear();
    const auto taken = scanner->take_written(pages(0, 16).start, pages(0, 16).end, written);
    EXPECT_TRUE(taken) << taken.error().to_string();
    return written;
  };
  EXPECT_TRUE(since().empty());
  at(3) = 2;   // there already
  at(12) = 2;  // touched for the first time
  EXPECT_EQ(value_at(5), 1);
  EXPECT_EQ(since(), (std::vector{pages(3, 1), pages(12, 1)}));
  ::madvise(area_ + page_, 2 * page_, MADV_DONTNEED);
  EXPECT_EQ(since(), std::vector{pages(1, 2)});
  EXPECT_TRUE(since().empty());
}

// Each event keeps its cause waiting until it was read.
TEST_F(UserfaultfdTest, WhatHappensToTheMemoryIsTold) {
  enable(uffd::kEventRemap | uffd::kEventRemove | uffd::kEventUnmap);
  map(4);
  ASSERT_TRUE(uffd_.register_range(pages(0, 4), Userfaultfd::kMissing));
  std::thread dropper([&] { ::madvise(area_, page_, MADV_DONTNEED); });
  const auto removed = next();
  dropper.join();
  ASSERT_NE(std::get_if<UffdRemoved>(&removed), nullptr);
  EXPECT_EQ(std::get<UffdRemoved>(removed).pages, pages(0, 1));
  std::thread unmapper([&] { ::munmap(area_ + page_, page_); });
  const auto unmapped = next();
  unmapper.join();
  ASSERT_NE(std::get_if<UffdUnmapped>(&unmapped), nullptr);
  EXPECT_EQ(std::get<UffdUnmapped>(unmapped).pages, pages(1, 1));
  void* target = nullptr;
  std::thread mover([&] { target = ::mremap(area_ + 3 * page_, page_, 2 * page_, MREMAP_MAYMOVE); });
  const auto moved = next();
  if (const auto* const event = std::get_if<UffdMoved>(&moved)) {
    EXPECT_EQ(event->from, pages(3, 1).start);
  }
  std::atomic<bool> done = false;
  std::thread drain([&] {
    while (!done) static_cast<void>(uffd_.read_events());
  });
  mover.join();
  ::munmap(target, 2 * page_);
  done = true;
  drain.join();
}

TEST_F(UserfaultfdTest, AForkedChildBringsAUserfaultfdOfItsOwn) {
  enable(uffd::kEventFork, UffdFaults::kAll);
  if (IsSkipped()) return;
  map(1);
  ASSERT_TRUE(uffd_.register_range(pages(0, 1), Userfaultfd::kMissing));
  pid_t child = -1;
  std::thread forker([&] {
    child = ::fork();
    if (child == 0) ::_exit(at(0) == 9 ? 0 : 1);
  });
  auto forked = next();
  forker.join();
  ASSERT_NE(std::get_if<UffdForked>(&forked), nullptr);
  uffd_ = Userfaultfd(std::move(std::get<UffdForked>(forked).child));
  static_cast<void>(next());
  EXPECT_TRUE(uffd_.copy(pages(0, 1).start, filled_with(9, 1)));
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace stasis::kernel
