// SPDX-License-Identifier: Apache-2.0
#include "kernel/page_scan.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "kernel/descriptors.h"

namespace stasis::kernel {
namespace {

using testing::ElementsAre;

constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL

// Both methods on memory of this process whose state is known.
class PageScan : public ::testing::TestWithParam<PageScanner::Method> {
 protected:
  void SetUp() override {
    auto proc = ProcDir::open(HostPid(::getpid()));
    ASSERT_TRUE(proc);
    proc_.emplace(*std::move(proc));
    auto scanner = PageScanner::open(*proc_, GetParam());
    ASSERT_TRUE(scanner) << scanner.error().to_string();
    scanner_.emplace(*std::move(scanner));
  }

  std::byte* map(std::size_t pages, int fd = -1) {
    void* const area =
        ::mmap(nullptr, pages * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    EXPECT_NE(area, MAP_FAILED);
    ::madvise(area, pages * page_, MADV_NOHUGEPAGE);
    return static_cast<std::byte*>(area);
  }

  Vma vma_of(std::byte* area, std::size_t pages, bool file) const {
    Vma vma;
    vma.start = reinterpret_cast<std::uint64_t>(area);
    vma.end = vma.start + pages * page_;
    vma.inode = file ? 1 : 0;
    return vma;
  }

  // Runs as pairs of page numbers within the area.
  std::vector<std::pair<std::size_t, std::size_t>> pages(const std::vector<PageRun>& runs, std::byte* area) const {
    std::vector<std::pair<std::size_t, std::size_t>> list;
    const auto base = reinterpret_cast<std::uint64_t>(area);
    for (const PageRun& run : runs) list.emplace_back((run.start - base) / page_, (run.end - base) / page_);
    return list;
  }

  std::size_t page_ = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::optional<ProcDir> proc_;
  std::optional<PageScanner> scanner_;
};

TEST_P(PageScan, FindsThePagesOfAnonymousMemoryThatWereWritten) {
  std::byte* const area = map(16);
  for (const std::size_t i : {1u, 2u, 3u, 9u, 15u}) area[i * page_] = std::byte{1};
  std::vector<PageRun> runs;
  ASSERT_TRUE(scanner_->private_pages(vma_of(area, 16, false), runs));
  using P = std::pair<std::size_t, std::size_t>;
  EXPECT_THAT(pages(runs, area), ElementsAre(P{1, 4}, P{9, 10}, P{15, 16}));
  ::munmap(area, 16 * page_);
}

TEST_P(PageScan, LeavesOutPagesThatWereOnlyReadWhereItCanTell) {
  if (!scanner_->uses_ioctl()) GTEST_SKIP() << "reading pagemap without privilege does not show the zero page";
  std::byte* const area = map(4);
  const std::byte read = *static_cast<volatile std::byte*>(area + page_);
  area[2 * page_] = std::byte{1};
  std::vector<PageRun> runs;
  ASSERT_TRUE(scanner_->private_pages(vma_of(area, 4, false), runs));
  EXPECT_EQ(read, std::byte{0});
  EXPECT_THAT(pages(runs, area), ElementsAre(std::pair<std::size_t, std::size_t>{2, 3}));
  ::munmap(area, 4 * page_);
}

TEST_P(PageScan, FindsOnlyThePrivateCopiesOfFilePages) {
  const auto file = memfd_create("page_scan_test");
  ASSERT_TRUE(file);
  ASSERT_EQ(::ftruncate(file->get(), static_cast<off_t>(8 * page_)), 0);
  std::byte* const area = map(8, file->get());
  std::byte sum{};
  for (std::size_t i = 0; i < 8; ++i) sum |= static_cast<volatile std::byte*>(area)[i * page_];
  area[5 * page_] = std::byte{1};
  std::vector<PageRun> runs;
  ASSERT_TRUE(scanner_->private_pages(vma_of(area, 8, true), runs));
  EXPECT_EQ(sum, std::byte{0});
  EXPECT_THAT(pages(runs, area), ElementsAre(std::pair<std::size_t, std::size_t>{5, 6}));
  ::munmap(area, 8 * page_);
}

TEST_P(PageScan, GuardRegionsAreNoContentAndAreFound) {
  std::byte* const area = map(8);
  for (std::size_t i = 0; i < 8; ++i) area[i * page_] = std::byte{1};
  if (::madvise(area + 2 * page_, 2 * page_, kGuardInstall) != 0) {
    GTEST_SKIP() << "this kernel has no guard regions";
  }
  if (!scanner_->sees_guard()) GTEST_SKIP() << "this kernel does not report guard regions";
  std::vector<PageRun> runs, guards;
  ASSERT_TRUE(scanner_->private_pages(vma_of(area, 8, false), runs));
  ASSERT_TRUE(scanner_->guard_pages(vma_of(area, 8, false), guards));
  using P = std::pair<std::size_t, std::size_t>;
  EXPECT_THAT(pages(runs, area), ElementsAre(P{0, 2}, P{4, 8}));
  EXPECT_THAT(pages(guards, area), ElementsAre(P{2, 4}));
  ::munmap(area, 8 * page_);
}

TEST_P(PageScan, ManyRunsAreAllReportedOnce) {
  constexpr std::size_t kPages = 8192;
  std::byte* const area = map(kPages);
  for (std::size_t i = 0; i < kPages; i += 2) area[i * page_] = std::byte{1};
  // Counts around the size of the kernel's answers, exactly filled ones among them.
  for (const std::size_t count : {511u, 512u, 1023u, 1024u, 1025u, 2047u, 2048u, 3000u, 4096u}) {
    std::vector<PageRun> runs;
    ASSERT_TRUE(scanner_->private_pages(vma_of(area, 2 * count, false), runs));
    ASSERT_EQ(runs.size(), count);
    for (std::size_t i = 0; i < runs.size(); ++i) {
      ASSERT_EQ(runs[i].start, reinterpret_cast<std::uint64_t>(area) + 2 * i * page_);
      ASSERT_EQ(runs[i].size(), page_);
    }
  }
  ::munmap(area, kPages * page_);
}

TEST_P(PageScan, PagesThatAChildHasAsWellAreNotExclusive) {
  std::byte* const area = map(8);
  for (std::size_t i = 0; i < 6; ++i) area[i * page_] = std::byte{1};
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(go[1]);
    char nothing = 0;
    ::_exit(::read(go[0], &nothing, 1) == 0 ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  ::close(go[0]);
  for (const std::size_t i : {2u, 3u, 6u}) static_cast<volatile std::byte*>(area)[i * page_] = std::byte{2};
  std::vector<PageRun> runs;
  const auto start = reinterpret_cast<std::uint64_t>(area);
  const auto looked = scanner_->not_exclusive(start, start + 8 * page_, runs);
  ::close(go[1]);
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(looked) << looked.error().to_string();
  using P = std::pair<std::size_t, std::size_t>;
  EXPECT_THAT(pages(runs, area), ElementsAre(P{0, 2}, P{4, 6}));
  ::munmap(area, 8 * page_);
}

TEST_P(PageScan, RefusesHalfPagesAndBackwardRanges) {
  std::vector<PageRun> runs;
  EXPECT_EQ(scanner_->scan(1, page_, {}, runs).error().code(), Errc::kInvalidArgument);
  EXPECT_EQ(scanner_->scan(2 * page_, page_, {}, runs).error().code(), Errc::kInvalidArgument);
  EXPECT_TRUE(scanner_->scan(page_, page_, {}, runs));
}

INSTANTIATE_TEST_SUITE_P(Methods, PageScan,
                         testing::Values(PageScanner::Method::kAuto, PageScanner::Method::kPagemapFile),
                         [](const auto& method) {
                           return method.param == PageScanner::Method::kAuto ? "Auto" : "PagemapFile";
                         });

}  // namespace
}  // namespace stasis::kernel
