// SPDX-License-Identifier: Apache-2.0
#include "image/direct_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/page_buffer.h"
#include "image/sample_image.h"
#include "image/verify.h"
#include "image/zero_pages.h"

namespace stasis {
namespace {

constexpr std::uint64_t kPage = 4096;

std::span<std::byte> fill(PageBuffer& buffer, std::size_t size, std::uint64_t seed) {
  const auto bytes = buffer.take(size);
  for (std::size_t i = 0; i < size; i += 8) {
    seed = seed * 6364136223846793005 + 1442695040888963407;
    std::memcpy(&bytes[i], &seed, 8);
  }
  return bytes;
}

// Works on every file system; what is direct is direct where it can be.
TEST(DirectFile, AnImageWrittenDirectlyIsWholeAndNoLongerThanItIs) {
  const sample::ScratchDir dir;
  for (const Codec codec : {Codec::kNone, Codec::kLz4, Codec::kZstd}) {
    auto writer = ImageWriter::create(dir / "x.img", {.codec = codec});
    ASSERT_TRUE(writer);
    writer->write_directly();
    ASSERT_TRUE(writer->write(sample::environment()));
    ASSERT_TRUE(writer->end_structure());
    PageBuffer buffer;
    std::uint64_t at = 0;
    // Large and small ones, and some that shrink to a size that is no multiple of anything.
    for (const std::uint64_t pages : {512, 1, 64, 63, 200, 512}) {
      const auto bytes = fill(buffer, pages * kPage, pages);
      if (pages == 200) std::memset(bytes.data(), 7, bytes.size() / 2);
      ASSERT_TRUE(writer->add_chunk(ObjRef(1), std::array{PageRun{at, bytes.size()}}, bytes));
      at += bytes.size();
    }
    ASSERT_TRUE(writer->publish());
    const auto verified = verify_image(dir / "x.img", {});
    ASSERT_TRUE(verified);
    EXPECT_EQ(verified->page_bytes, at);
    struct ::stat info{};
    ASSERT_EQ(::stat((dir / "x.img").c_str(), &info), 0);
    EXPECT_LT(static_cast<std::uint64_t>(info.st_blocks) * 512, at + (std::uint64_t{1} << 20)) << "room is given back";
  }
}

TEST(PageBuffer, ItKeepsWhatItHasAndIsAligned) {
  PageBuffer buffer;
  for (const std::size_t size : {std::size_t{100}, std::size_t{5000}, std::size_t{3} << 20, std::size_t{1}}) {
    const auto bytes = buffer.take(size);
    EXPECT_EQ(bytes.size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes.data()) % kPage, 0u);
  }
  EXPECT_EQ(buffer.take(10).data(), buffer.take(std::size_t{3} << 20).data());
}

TEST(ZeroPages, WhatIsLeftMovesTogether) {
  PageBuffer buffer;
  const auto bytes = fill(buffer, 6 * kPage, 1);
  for (const std::size_t page : {0, 3, 5}) std::memset(&bytes[page * kPage], 0, kPage);
  bytes[3 * kPage + 4000] = std::byte{1};  // no, this one stays
  const std::vector<std::byte> before(bytes.begin(), bytes.end());
  std::vector<PageRun> runs{{0x10000, 2 * kPage}, {0x20000, 4 * kPage}};
  ASSERT_EQ(squeeze_zero_pages(runs, bytes, kPage), 4 * kPage);
  EXPECT_EQ(runs, (std::vector<PageRun>{{0x11000, kPage}, {0x20000, 3 * kPage}}));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.begin() + 4 * kPage, before.begin() + kPage));

  std::vector<std::byte> zeros(2 * kPage);
  runs = {{0x1000, 2 * kPage}};
  EXPECT_EQ(squeeze_zero_pages(runs, zeros, kPage), 0u);
  EXPECT_TRUE(runs.empty());
}

}  // namespace
}  // namespace stasis
