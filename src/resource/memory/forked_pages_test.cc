// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/forked_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "image/page_runs.h"
#include "resource/memory/page_reader.h"

namespace stasis {
namespace {

using kernel::VmFlag;
using kernel::VmFlags;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kHeap = 0x10'0000, kFile = 0x20'0000, kVdso = 0x7000'0000;

VmaRecord anonymous(std::uint64_t start, std::uint64_t pages) {
  return {.start = start,
          .end = start + pages * kPage,
          .prot = PROT_READ | PROT_WRITE,
          .flags = VmFlags{VmFlag::kRead, VmFlag::kWrite, VmFlag::kMayWrite, VmFlag::kAccount}.bits()};
}

VmaRecord mapped(std::uint64_t start, std::uint64_t pages, std::uint64_t offset) {
  VmaRecord vma = anonymous(start, pages);
  vma.backing = VmaBacking::kFile;
  vma.offset = offset;
  return vma;
}

MemoryRecord memory(std::vector<VmaRecord> vmas) {
  vmas.push_back({.start = kVdso, .end = kVdso + 4 * kPage, .backing = VmaBacking::kVdso});
  return {.vdso = kVdso, .files = {{.path = "/bin/true", .inode = 5}}, .vmas = std::move(vmas)};
}

std::vector<std::uint64_t> starts(const MemoryRecord& parent, const MemoryRecord& child) {
  std::vector<std::uint64_t> result;
  for (const VmaRecord* const vma : forked_areas(parent, child)) result.push_back(vma->start);
  return result;
}

TEST(ForkedAreas, AreThoseInsideAreasOfTheParent) {
  const MemoryRecord parent = memory({anonymous(kHeap, 16), mapped(kFile, 8, 4 * kPage)});
  EXPECT_THAT(starts(parent, parent), ElementsAre(kHeap, kFile));
  // The child gave back a page in the middle; the file's rest is still at its place.
  EXPECT_THAT(starts(parent, memory({anonymous(kHeap, 4), anonymous(kHeap + 5 * kPage, 11),
                                     mapped(kFile + 2 * kPage, 6, 6 * kPage)})),
              ElementsAre(kHeap, kHeap + 5 * kPage, kFile + 2 * kPage));
  // One that begins or ends outside is mapped anew: pieced together it would be two areas.
  EXPECT_THAT(starts(parent, memory({anonymous(kHeap + kPage, 16)})), IsEmpty());
  EXPECT_THAT(starts(parent, memory({anonymous(kHeap - kPage, 4)})), IsEmpty());
}

TEST(ForkedAreas, DifferInNothingThatAForkCopies) {
  const MemoryRecord parent = memory({anonymous(kHeap, 16), mapped(kFile, 8, 4 * kPage)});
  const auto changed = [&](auto change) {
    MemoryRecord child = parent;
    change(child);
    return starts(parent, child);
  };
  const auto with_flag = [](VmFlag flag) {
    return [flag](MemoryRecord& child) {
      VmFlags flags = child.vmas[0].vm_flags();
      flags.set(flag);
      child.vmas[0].flags = flags.bits();
    };
  };
  EXPECT_THAT(changed([](MemoryRecord& child) { child.vmas[0].prot = PROT_READ; }), ElementsAre(kFile));
  EXPECT_THAT(changed([](MemoryRecord& child) { child.vmas[0].name = "[anon:x]"; }), ElementsAre(kFile));
  EXPECT_THAT(changed([](MemoryRecord& child) { child.vmas[0].guards = {{kHeap, kPage}}; }), ElementsAre(kFile));
  EXPECT_THAT(changed(with_flag(VmFlag::kDontDump)), ElementsAre(kFile));
  EXPECT_THAT(changed(with_flag(VmFlag::kSoftDirty)), ElementsAre(kHeap, kFile));
  EXPECT_THAT(changed([](MemoryRecord& child) { child.vmas[1].offset += kPage; }), ElementsAre(kHeap));
  EXPECT_THAT(changed([](MemoryRecord& child) {
                child.files.push_back({.path = "/bin/false", .inode = 6});
                child.vmas[1].file = 1;
              }),
              ElementsAre(kHeap));
  EXPECT_THAT(changed([](MemoryRecord& child) { child.vmas[1].backing = VmaBacking::kAnonymous; }), ElementsAre(kHeap));
}

TEST(ForkedAreas, WhatAForkDoesNotCopyIsNotAmongThem) {
  for (const VmFlag flag : {VmFlag::kDontCopy, VmFlag::kWipeOnFork, VmFlag::kLocked, VmFlag::kHugeTlb}) {
    MemoryRecord both = memory({anonymous(kHeap, 16), anonymous(kFile, 8)});
    VmFlags flags = both.vmas[0].vm_flags();
    flags.set(flag);
    both.vmas[0].flags = flags.bits();
    EXPECT_THAT(starts(both, both), ElementsAre(kFile));
  }
}

TEST(ForkedAreas, AnotherProgramOrVdsoAndSealedMemoryHaveNone) {
  const MemoryRecord parent = memory({anonymous(kHeap, 16)});
  MemoryRecord other = parent;
  other.files[0].inode = 6;
  EXPECT_THAT(starts(parent, other), IsEmpty());
  other = parent;
  other.vdso += kPage;
  EXPECT_THAT(starts(parent, other), IsEmpty());
  other = parent;
  other.vmas.back().end -= kPage;
  EXPECT_THAT(starts(parent, other), IsEmpty());
  MemoryRecord sealed = memory({anonymous(kHeap, 16), anonymous(kFile, 8)});
  sealed.vmas[1].flags = VmFlags{VmFlag::kSealed}.bits();
  EXPECT_THAT(starts(sealed, parent), IsEmpty());
}

// A child that stops itself, and its memory.
class Child {
 public:
  explicit Child(const std::function<void()>& work) : pid_(::fork()) {
    if (pid_ == 0) {
      work();
      ::raise(SIGSTOP);
      ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, WUNTRACED), pid_);
    EXPECT_TRUE(WIFSTOPPED(status));
    auto proc = kernel::ProcDir::open(HostPid(pid_));
    EXPECT_TRUE(proc);
    auto memory = kernel::ProcessMemory::open(*proc);
    EXPECT_TRUE(memory);
    memory_.emplace(*std::move(memory));
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  const kernel::ProcessMemory& memory() const { return *memory_; }

 private:
  pid_t pid_;
  std::optional<kernel::ProcessMemory> memory_;
};

TEST(ForkedPages, AreThoseThatAreEqualAndMayBeShared) {
  constexpr std::size_t kPages = 300;  // more than a window
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  auto* const area = static_cast<std::byte*>(
      ::mmap(nullptr, kPages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(area, MAP_FAILED);
  for (std::size_t i = 0; i < kPages; ++i) area[i * page] = std::byte(i % 200 + 1);
  const auto at = [&](std::size_t i) { return reinterpret_cast<std::uint64_t>(area) + i * page; };
  const auto run = [&](std::size_t first, std::size_t end) { return PageRun{at(first), (end - first) * page}; };
  const Child parent([] {});
  const Child one([&] { area[7 * page] = std::byte{0xff}; });
  const Child other([&] { std::memset(area + 100 * page, 0xfe, 100 * page); });
  const std::vector<PageRun> all = {run(0, kPages)}, some = {run(5, 150), run(160, 250)}, none;
  const auto holder = [&](const Child& child, std::span<const PageRun> shared) {
    return PageHolder{.memory = child.memory(), .shared = shared};
  };
  const std::vector<ParentAndChild> pairs = {{holder(parent, all), holder(one, all)},
                                             {holder(parent, all), holder(other, some)},
                                             {holder(parent, all), holder(other, none)},
                                             {holder(one, some), holder(other, all)}};
  const auto found = find_forked_pages(pairs, Patience(std::chrono::seconds(60), nullptr));
  ASSERT_TRUE(found) << found.error().to_string();
  EXPECT_THAT((*found)[0], ElementsAre(run(0, 7), run(8, kPages)));
  EXPECT_THAT((*found)[1], ElementsAre(run(5, 100), run(200, 250)));
  EXPECT_THAT((*found)[2], IsEmpty());
  EXPECT_THAT((*found)[3], ElementsAre(run(5, 7), run(8, 100), run(200, 250)));
  ::munmap(area, kPages * page);
}

TEST(PageReader, ReadsTheSameEitherWay) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<std::byte> bytes(21 * page);
  const std::uint64_t base = (reinterpret_cast<std::uint64_t>(bytes.data()) + page - 1) / page * page;
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i / 7 % 251);
  const Child child([] {});
  const auto run = [&](std::size_t first, std::size_t count) { return PageRun{base + first * page, count * page}; };
  const std::vector<PageRun> wanted = {run(1, 4), run(6, 1), run(8, 10)};
  std::vector<std::byte> expected;
  for (const PageRun& one : wanted) {
    const auto* const start = reinterpret_cast<const std::byte*>(one.start);
    expected.insert(expected.end(), start, start + one.length);
  }
  for (const std::vector<PageRun>& shared :
       {std::vector<PageRun>{}, {run(0, 20)}, {run(0, 2), run(3, 1), run(6, 3), run(17, 1)}, {run(19, 1)}}) {
    std::vector<std::byte> found(expected.size());
    ASSERT_TRUE(PageReader(child.memory(), shared).read(wanted, found));
    EXPECT_EQ(found, expected);
  }
}

}  // namespace
}  // namespace stasis
