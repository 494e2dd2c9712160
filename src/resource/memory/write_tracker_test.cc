// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/write_tracker.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "image/page_runs.h"
#include "kernel/page_size.h"

namespace stasis {
namespace {

// Tracks an area of this process itself.
class WriteTrackerTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kPages = 64;

  void SetUp() override {
    area_ = map(nullptr, kPages);
    for (std::size_t i = 0; i < kPages / 2; ++i) write(i);
    auto uffd = kernel::Userfaultfd::create(kernel::UffdFaults::kUserMode);
    if (!uffd) GTEST_SKIP() << uffd.error().to_string();
    auto tracker = WriteTracker::enable(std::move(*uffd));
    if (!tracker) GTEST_SKIP() << tracker.error().to_string();
    tracker_ = std::move(*tracker);
    kernel::Vma vma;
    vma.start = address(0);
    vma.end = address(kPages);
    const auto added = tracker_->add(proc_, std::span(&vma, 1));
    if (!added && added.error().code() == Errc::kKernelFeature) GTEST_SKIP() << added.error().to_string();
    ASSERT_TRUE(added) << added.error().to_string();
    ASSERT_EQ(tracker_->tracked(), pages(0, kPages));
  }
  void TearDown() override {
    tracker_.reset();
    ::munmap(area_, kPages * page_);
  }

  unsigned char* map(void* at, std::size_t count) {
    void* const area =
        ::mmap(at, count * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);
    EXPECT_NE(area, MAP_FAILED);
    ::madvise(area, count * page_, MADV_NOHUGEPAGE);
    return static_cast<unsigned char*>(area);
  }
  void write(std::size_t page) { static_cast<volatile unsigned char*>(area_)[page * page_] = 1; }
  std::uint64_t address(std::size_t page) const { return reinterpret_cast<std::uint64_t>(area_) + page * page_; }
  std::vector<PageRun> pages(std::size_t first, std::size_t count) const {
    return {{.start = address(first), .length = count * page_}};
  }
  // Of this area.
  std::vector<PageRun> written() {
    const auto vmas = proc_.maps();
    EXPECT_TRUE(vmas);
    const auto taken = tracker_->take_written(proc_, *vmas);
    EXPECT_TRUE(taken) << taken.error().to_string();
    return taken ? *taken : std::vector<PageRun>();
  }

  std::size_t page_ = kernel::page_size();
  kernel::ProcDir proc_ = *kernel::ProcDir::open(HostPid(::getpid()));
  std::optional<WriteTracker> tracker_;
  unsigned char* area_ = nullptr;
};

TEST_F(WriteTrackerTest, TellsEachWriteOnce) {
  EXPECT_TRUE(written().empty());
  write(3);
  write(40);
  EXPECT_EQ(written(), merge(pages(3, 1), pages(40, 1)));
  EXPECT_TRUE(written().empty());
}

TEST_F(WriteTrackerTest, WhatIsDroppedIsWritten) {
  ::madvise(area_ + 5 * page_, 2 * page_, MADV_DONTNEED);
  EXPECT_EQ(written(), pages(5, 2));
  EXPECT_EQ(tracker_->tracked(), pages(0, kPages));
}

TEST_F(WriteTrackerTest, WhatIsMappedAnewIsNotTracked) {
  map(area_ + 10 * page_, 4);
  write(3);
  EXPECT_EQ(written(), pages(3, 1));
  EXPECT_EQ(tracker_->tracked(), subtract(pages(0, kPages), pages(10, 4)));
  write(11);
  EXPECT_TRUE(written().empty());
}

TEST_F(WriteTrackerTest, WhatWasMovedAwayIsNotTracked) {
  void* const moved =
      ::mremap(area_ + 20 * page_, 4 * page_, 4 * page_, MREMAP_MAYMOVE | MREMAP_FIXED, map(nullptr, 4));
  ASSERT_NE(moved, MAP_FAILED);
  EXPECT_TRUE(written().empty());
  EXPECT_EQ(tracker_->tracked(), subtract(pages(0, kPages), pages(20, 4)));
  ::munmap(moved, 4 * page_);
}

TEST_F(WriteTrackerTest, ProtectionMakesNoDifference) {
  ::mprotect(area_ + 8 * page_, 8 * page_, PROT_READ);
  EXPECT_TRUE(written().empty());
  ::mprotect(area_ + 8 * page_, 8 * page_, PROT_READ | PROT_WRITE);
  write(9);
  EXPECT_EQ(written(), pages(9, 1));
  EXPECT_EQ(tracker_->tracked(), pages(0, kPages));
}

TEST_F(WriteTrackerTest, AtItsEndNothingIsLeft) {
  tracker_->end();
  EXPECT_TRUE(tracker_->tracked().empty());
  const auto vmas = proc_.smaps();
  ASSERT_TRUE(vmas);
  EXPECT_TRUE(std::ranges::none_of(*vmas, [](const auto& vma) { return vma.flags.has(kernel::VmFlag::kUffdWp); }));
  write(1);
}

TEST_F(WriteTrackerTest, WhatWasWrittenSinceTheBaseAddsUp) {
  tracker_->set_base();
  write(3);
  EXPECT_EQ(written(), pages(3, 1));
  write(4);
  EXPECT_EQ(written(), pages(4, 1));
  EXPECT_EQ(tracker_->unchanged(), subtract(pages(0, kPages), pages(3, 2)));
  tracker_->set_base();
  EXPECT_EQ(tracker_->unchanged(), pages(0, kPages));
}

TEST_F(WriteTrackerTest, WhatIsTrackedAgainWasNotTrackedSinceTheBase) {
  tracker_->set_base();
  map(area_ + 10 * page_, 4);
  written();
  const auto vmas = proc_.maps();
  ASSERT_TRUE(vmas);
  for (const kernel::Vma& one : *vmas) {
    if (one.start < address(0) || one.end > address(kPages)) continue;
    ASSERT_TRUE(tracker_->add(proc_, std::span(&one, 1)));
  }
  EXPECT_EQ(tracker_->tracked(), pages(0, kPages));
  EXPECT_TRUE(written().empty());
  EXPECT_EQ(tracker_->since_base(), subtract(pages(0, kPages), pages(10, 4)));
  EXPECT_EQ(tracker_->unchanged(), subtract(pages(0, kPages), pages(10, 4)));
}

TEST_F(WriteTrackerTest, WhatAnotherTrackerHasTakenIsNotOurs) {
  tracker_->set_base();
  map(area_ + 10 * page_, 4);
  write(11);
  auto uffd = kernel::Userfaultfd::create(kernel::UffdFaults::kUserMode);
  ASSERT_TRUE(uffd);
  auto other = WriteTracker::enable(std::move(*uffd));
  ASSERT_TRUE(other);
  kernel::Vma vma;
  vma.start = address(10);
  vma.end = address(14);
  ASSERT_TRUE(other->add(proc_, std::span(&vma, 1)));
  EXPECT_TRUE(written().empty());
  EXPECT_EQ(tracker_->unchanged(), subtract(pages(0, kPages), pages(10, 4)));
}

}  // namespace
}  // namespace stasis
