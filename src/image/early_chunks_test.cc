// SPDX-License-Identifier: Apache-2.0
// Pages that are written before the structure section is known.
#include "image/early_chunks.h"

#include <gtest/gtest.h>

#include "image/format.h"
#include "image/merge.h"
#include "image/sample_image.h"
#include "image/verify.h"

namespace stasis {
namespace {

using sample::kSamplePage;
constexpr std::uint64_t kRoom = 256 << 10;

class EarlyChunksTest : public ::testing::Test {
 protected:
  EarlyChunksTest() : writer_(*ImageWriter::create(path(), {.durability = Durability::kFast})) {}
  std::string path() const { return dir_ / "image"; }

  ChunkSlot reserve(std::vector<PageRun> runs, std::uint32_t seed) {
    auto slot = early_.reserve(runs);
    EXPECT_TRUE(slot) << slot.error().to_string();
    EXPECT_TRUE(
        pwrite_full(slot->fd, sample::pages(slot->length / kSamplePage, seed), static_cast<off_t>(slot->offset)));
    return *slot;
  }
  void write_structure() {
    ASSERT_TRUE(writer_.write(sample::environment()));
    ASSERT_TRUE(writer_.begin_object(ObjRef(1), sample::kLeafObject));
    ASSERT_TRUE(writer_.write(sample::LeafRecord{"first", ObjRef()}));
    ASSERT_TRUE(writer_.write(sample::NoteRecord{"may be passed over"}));
    const auto ended = writer_.end_structure();
    ASSERT_TRUE(ended) << ended.error().to_string();
  }
  // Object 1 has these pages and no others, however the image is read.
  void expect_pages(const std::vector<PageRun>& runs, const std::vector<std::byte>& pages) {
    const auto verified = verify_image(path(), {});
    EXPECT_TRUE(verified) << verified.error().to_string();
    const auto bytes = sample::file_bytes(path());
    for (const auto access : {ImageReader::Access::kFile, ImageReader::Access::kStream}) {
      auto reader = ImageReader::from_bytes(bytes, access, {});
      ASSERT_TRUE(reader) << reader.error().to_string();
      std::vector<PageRun> found;
      std::vector<std::byte> all, buffer;
      while (const auto chunk = *reader->next_chunk(buffer)) {
        EXPECT_EQ(chunk->object, ObjRef(1));
        found.insert(found.end(), chunk->runs.begin(), chunk->runs.end());
        all.insert(all.end(), buffer.begin(), buffer.end());
      }
      EXPECT_TRUE(reader->finish());
      EXPECT_EQ(found, runs);
      EXPECT_EQ(all, pages);
    }
  }

  sample::ScratchDir dir_;
  ImageWriter writer_;
  EarlyChunks early_{writer_};
};

TEST_F(EarlyChunksTest, StandBehindAStructureThatComesLater) {
  ASSERT_TRUE(early_.reserve_structure(kRoom));
  const std::vector<PageRun> runs{{0x10000, 2 * kSamplePage}, {0x20000, kSamplePage}};
  const ChunkSlot slot = reserve(runs, 1);
  EXPECT_GE(slot.offset, kRoom);
  EXPECT_FALSE(early_.finish(slot, ObjRef(1)));  // not yet
  write_structure();
  // Written once more.
  ASSERT_TRUE(pwrite_full(slot.fd, sample::pages(3, 2), static_cast<off_t>(slot.offset)));
  ASSERT_TRUE(early_.finish(slot, ObjRef(1)));
  EXPECT_FALSE(early_.drop(slot));
  ASSERT_TRUE(writer_.publish());
  expect_pages(runs, sample::pages(3, 2));
}

TEST_F(EarlyChunksTest, ADroppedOneLeavesAVoidThatNobodySees) {
  ASSERT_TRUE(early_.reserve_structure(kRoom));
  std::vector<PageRun> many;  // whose record is longer than a page
  for (std::uint64_t i = 0; i < 2000; ++i) many.push_back({i * 2 * kSamplePage + (1u << 30), kSamplePage});
  const ChunkSlot first = reserve({{0x10000, kSamplePage}}, 1), second = reserve(many, 2),
                  third = reserve({{0x30000, kSamplePage}}, 3);
  write_structure();
  ASSERT_TRUE(early_.finish(third, ObjRef(1)));
  ASSERT_TRUE(early_.drop(second));
  ASSERT_TRUE(early_.finish(first, ObjRef(1)));
  const PageRun late{0x40000, kSamplePage};
  ASSERT_TRUE(writer_.add_chunk(ObjRef(1), std::span(&late, 1), sample::pages(1, 4)));
  ASSERT_TRUE(writer_.publish());
  std::vector<std::byte> pages;
  for (const std::uint32_t seed : {1u, 3u, 4u}) {
    const auto part = sample::pages(1, seed);
    pages.insert(pages.end(), part.begin(), part.end());
  }
  const std::vector<PageRun> runs{{0x10000, kSamplePage}, {0x30000, kSamplePage}, late};
  expect_pages(runs, pages);
  // And a copy has none.
  const std::string copy = dir_ / "copy";
  const auto merged = merge_image(path(), copy, {});
  ASSERT_TRUE(merged) << merged.error().to_string();
  EXPECT_LT(sample::file_bytes(copy).size(), kRoom);
  EXPECT_TRUE(verify_image(copy, {}));
  const auto reader = ImageReader::open(copy, {});
  ASSERT_TRUE(reader);
  EXPECT_EQ(*reader->page_runs(ObjRef(1)), runs);
}

TEST_F(EarlyChunksTest, AStructureThatFillsItsRoomNeedsNoPadding) {
  ASSERT_TRUE(early_.reserve_structure(1));
  const ChunkSlot slot = reserve({{0x10000, kSamplePage}}, 1);
  EXPECT_EQ(slot.offset, 2 * kPayloadAlignment);
  ASSERT_TRUE(writer_.write(sample::environment()));
  ASSERT_TRUE(writer_.end_structure());
  ASSERT_TRUE(early_.finish(slot, ObjRef(1)));
  ASSERT_TRUE(writer_.publish());
  expect_pages({{0x10000, kSamplePage}}, sample::pages(1, 1));
}

TEST_F(EarlyChunksTest, WithTooLittleRoomTheImageGoesOnWithoutThem) {
  ASSERT_TRUE(early_.reserve_structure(kPayloadAlignment));
  const ChunkSlot slot = reserve({{0x10000, kSamplePage}}, 1);
  ASSERT_TRUE(writer_.write(sample::environment()));
  ASSERT_TRUE(writer_.write(sample::NoteRecord{std::string(3 * kPayloadAlignment, 'x')}));
  EXPECT_EQ(writer_.end_structure().error().code(), Errc::kOverflow);
  ASSERT_TRUE(early_.forget());
  ASSERT_TRUE(writer_.end_structure());
  EXPECT_FALSE(early_.finish(slot, ObjRef(1)));
  const PageRun run{0x20000, kSamplePage};
  ASSERT_TRUE(writer_.add_chunk(ObjRef(1), std::span(&run, 1), sample::pages(1, 5)));
  ASSERT_TRUE(writer_.publish());
  expect_pages({run}, sample::pages(1, 5));
}

TEST_F(EarlyChunksTest, OneThatWasForgottenIsNoImage) {
  ASSERT_TRUE(early_.reserve_structure(kRoom));
  reserve({{0x10000, kSamplePage}}, 1);
  write_structure();
  EXPECT_FALSE(writer_.publish());
}

TEST_F(EarlyChunksTest, NeedRoomAndAFile) {
  const PageRun run{0x10000, kSamplePage};
  EXPECT_FALSE(early_.reserve(std::span(&run, 1)));
  auto stream = ImageWriter::to_stream(1, {});
  ASSERT_TRUE(stream);
  EXPECT_FALSE(EarlyChunks(*stream).reserve_structure(kRoom));
}

TEST(ChunkWithoutRuns, HoldsNothing) {
  EXPECT_TRUE(check_chunk({.object = ObjRef(1), .stored_size = 4096}, kSamplePage));
  EXPECT_TRUE(check_chunk({.object = ObjRef(1)}, kSamplePage));
  EXPECT_FALSE(check_chunk({.object = ObjRef(1), .raw_size = 4096, .stored_size = 4096}, kSamplePage));
  EXPECT_FALSE(check_chunk({.object = ObjRef(1), .codec = Codec::kLz4, .stored_size = 4096}, kSamplePage));
  EXPECT_FALSE(check_chunk({.object = ObjRef(1), .stored_size = kMaxChunkBytes + 1}, kSamplePage));
}

}  // namespace
}  // namespace stasis
