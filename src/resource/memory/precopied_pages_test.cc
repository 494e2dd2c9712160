// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/precopied_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "image/early_chunks.h"
#include "image/sample_image.h"
#include "image/verify.h"
#include "kernel/descriptors.h"

namespace stasis {
namespace {

using sample::kSamplePage;

// Pages by their addresses; each is filled with one value. Those that are missing can't be read.
class FakeMemory final : public PageSource {
 public:
  void set(std::uint64_t first, std::uint64_t count, int value) {
    for (std::uint64_t i = first; i < first + count; ++i) pages_[i] = static_cast<std::byte>(value);
  }
  void drop(std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = first; i < first + count; ++i) pages_.erase(i);
  }
  Result<void> read(std::span<const PageRun> runs, std::span<std::byte> bytes) const override {
    for (const PageRun& run : runs) {
      for (std::uint64_t done = 0; done < run.length; done += kSamplePage) {
        const auto page = pages_.find((run.start + done) / kSamplePage);
        if (page == pages_.end()) return Error(Errc::kIo, "no such page");
        std::ranges::fill(bytes.first(kSamplePage), page->second);
        bytes = bytes.subspan(kSamplePage);
      }
    }
    return {};
  }
  std::vector<PageRun> runs() const {
    std::vector<PageRun> runs;
    for (const auto& [number, value] : pages_) {
      if (!runs.empty() && runs.back().start + runs.back().length == number * kSamplePage) {
        runs.back().length += kSamplePage;
      } else {
        runs.push_back({.start = number * kSamplePage, .length = kSamplePage});
      }
    }
    return runs;
  }

 private:
  std::map<std::uint64_t, std::byte> pages_;
};

std::vector<PageRun> pages(std::uint64_t first, std::uint64_t count) {
  return {{.start = first * kSamplePage, .length = count * kSamplePage}};
}

std::vector<std::byte> bytes_of(const PageSource& source, const std::vector<PageRun>& runs) {
  std::uint64_t size = 0;
  for (const PageRun& run : runs) size += run.length;
  std::vector<std::byte> bytes(size);
  const auto read = source.read(runs, bytes);
  EXPECT_TRUE(read) << read.error().to_string();
  return bytes;
}

class PrecopiedPagesTest : public ::testing::Test {
 protected:
  Patience patience_{std::chrono::hours(1), nullptr};
  FakeMemory memory_;
};

TEST_F(PrecopiedPagesTest, AreAsTheyWereInTheFreezeWhateverHappenedBefore) {
  auto place = PrecopyPlace::in_file(*kernel::memfd_create("copies"));
  PrecopiedPages copies(place);
  memory_.set(100, 5000, 1);
  ASSERT_TRUE(copies.copy(memory_, memory_.runs(), patience_));
  memory_.set(200, 10, 2);
  memory_.set(9000, 20, 3);
  std::vector<PageRun> again = pages(200, 10);
  again.push_back(pages(9000, 20).front());
  ASSERT_TRUE(copies.copy(memory_, again, patience_));
  // Changed after they were copied for the last time; gone; new.
  memory_.set(300, 7, 4);
  memory_.drop(400, 50);
  memory_.set(20000, 3, 5);
  std::vector<PageRun> unchanged = pages(100, 200);
  unchanged.push_back(pages(307, 20000).front());
  EXPECT_EQ(copies.settle(memory_.runs(), unchanged), (7 + 3) * kSamplePage);
  copies.read_changed_from(memory_);
  ASSERT_TRUE(copies.keep());
  const auto expected = bytes_of(memory_, memory_.runs());
  const auto wanted = memory_.runs();
  memory_.set(100, 21000, 9);  // it runs again
  EXPECT_EQ(bytes_of(copies, wanted), expected);
  std::vector<std::byte> page(kSamplePage);
  EXPECT_FALSE(copies.read(pages(50000, 1), page));
}

TEST_F(PrecopiedPagesTest, WhatCantBeReadIsNotCopiedAndTheRestIs) {
  auto place = PrecopyPlace::in_file(*kernel::memfd_create("copies"));
  PrecopiedPages copies(place);
  memory_.set(0, 10, 1);
  memory_.drop(4, 1);
  ASSERT_TRUE(copies.copy(memory_, pages(0, 10), patience_));
  EXPECT_EQ(copies.copied(), (std::vector<PageRun>{pages(0, 4).front(), pages(5, 5).front()}));
  memory_.set(4, 1, 2);
  EXPECT_EQ(copies.settle(memory_.runs(), pages(0, 10)), kSamplePage);
}

TEST_F(PrecopiedPagesTest, PagesOfZerosAreCopiedNowhereAndSavedOnlyWhenTheyHaveChanged) {
  auto place = PrecopyPlace::in_file(*kernel::memfd_create("copies"));
  PrecopiedPages copies(place);
  memory_.set(0, 1000, 0);
  memory_.set(10, 2, 1);
  ASSERT_TRUE(copies.copy(memory_, memory_.runs(), patience_));
  EXPECT_EQ(copies.copied(), pages(10, 2));
  memory_.set(500, 1, 2);
  std::vector<PageRun> unchanged = pages(0, 500);
  unchanged.push_back(pages(501, 499).front());
  EXPECT_EQ(copies.settle(memory_.runs(), unchanged), kSamplePage);
  EXPECT_EQ(copies.wanted(), (std::vector<PageRun>{pages(10, 2).front(), pages(500, 1).front()}));
}

TEST_F(PrecopiedPagesTest, ChunksThatLostNothingStayAndTheOthersAreMadeAnew) {
  const sample::ScratchDir dir;
  ImageWriter writer = *ImageWriter::create(dir / "image", {.durability = Durability::kFast});
  ASSERT_TRUE(EarlyChunks(writer).reserve_structure(64 << 10));
  auto place = PrecopyPlace::in_image(writer);
  PrecopiedPages copies(place);
  constexpr std::uint64_t kChunk = kUsualChunkBytes / kSamplePage;
  memory_.set(0, 3 * kChunk, 1);
  ASSERT_TRUE(copies.copy(memory_, memory_.runs(), patience_));
  ASSERT_TRUE(writer.write(sample::environment()));
  ASSERT_TRUE(writer.end_structure());
  memory_.set(5, 2, 2);           // in the first chunk
  memory_.drop(kChunk + 7, 1);    // of the second
  memory_.set(5 * kChunk, 4, 3);  // new
  std::vector<PageRun> unchanged = pages(0, 5);
  unchanged.push_back(pages(7, 3 * kChunk).front());
  EXPECT_EQ(copies.settle(memory_.runs(), unchanged), 6 * kSamplePage);
  copies.read_changed_from(memory_);
  ASSERT_TRUE(copies.keep());
  const auto rest = copies.finish_chunks(ObjRef(3), patience_);
  ASSERT_TRUE(rest) << rest.error().to_string();
  std::vector<PageRun> expected_rest = pages(kChunk, 7);
  expected_rest.push_back(pages(kChunk + 8, kChunk - 8).front());
  expected_rest.push_back(pages(5 * kChunk, 4).front());
  EXPECT_EQ(*rest, expected_rest);
  ASSERT_TRUE(writer.add_chunk(ObjRef(3), *rest, bytes_of(copies, *rest)));
  ASSERT_TRUE(copies.drop_rest());
  ASSERT_TRUE(writer.publish());
  EXPECT_TRUE(verify_image(dir / "image", {}));
  const auto reader = ImageReader::open(dir / "image", {});
  ASSERT_TRUE(reader);
  EXPECT_EQ(*reader->page_runs(ObjRef(3)), memory_.runs());
  std::vector<std::byte> bytes(bytes_of(memory_, memory_.runs()).size());
  ASSERT_TRUE(reader->read_pages(ObjRef(3), memory_.runs(), bytes));
  EXPECT_EQ(bytes, bytes_of(memory_, memory_.runs()));
}

}  // namespace
}  // namespace stasis
