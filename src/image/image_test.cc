// SPDX-License-Identifier: Apache-2.0
// Writer and reader together: what is written comes back, in files and streams, with every codec.
#include <fcntl.h>
#include <gtest/gtest.h>

#include "image/format.h"
#include "image/sample_image.h"

namespace stasis {
namespace {

using sample::AllRecord;
using sample::LeafRecord;
using sample::ScratchDir;

// The sample image as bytes, by way of a file.
std::vector<std::byte> sample_bytes(Codec codec = Codec::kNone) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.codec = codec, .durability = Durability::kFast});
  EXPECT_TRUE(writer);
  EXPECT_TRUE(sample::write_sample(*writer));
  EXPECT_TRUE(writer->publish());
  return sample::file_bytes(dir / "x.img");
}

// Reads the sample image to its end and compares everything.
Result<void> read_sample(ImageReader& reader) {
  std::vector<LeafRecord> leaves;
  std::vector<std::int32_t> refs;
  reader.set_object_handler([&](ObjRef ref, ObjType type) -> Result<void> {
    if (type != sample::kLeafObject) return Error(Errc::kBadImage, "unexpected object type");
    leaves.push_back(STASIS_TRY(reader.read<LeafRecord>()));
    refs.push_back(ref.value());
    return {};
  });
  EXPECT_EQ(reader.environment().kernel_release, "6.1.0-test");
  const auto all = STASIS_TRY(reader.read<AllRecord>());
  EXPECT_EQ(all, sample::all_record());
  EXPECT_EQ(refs, (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(leaves, (std::vector<LeafRecord>{{"first", ObjRef()}, {"second", ObjRef(1)}}));
  STASIS_TRY(reader.expect_end());

  std::vector<std::byte> buffer;
  const auto first = STASIS_TRY(reader.next_chunk(buffer));
  if (!first) return Error(Errc::kBadImage, "no chunk");
  EXPECT_EQ(first->object, ObjRef(1));
  EXPECT_EQ(first->runs, (std::vector<PageRun>{{0x10000, 0x1000}, {0x20000, 0x1000}}));
  EXPECT_EQ(buffer, sample::pages(2, 1));
  const auto second = STASIS_TRY(reader.next_chunk(buffer));
  if (!second) return Error(Errc::kBadImage, "no second chunk");
  EXPECT_EQ(second->object, ObjRef(2));
  EXPECT_EQ(buffer, sample::pages(1, 2));
  EXPECT_FALSE(STASIS_TRY(reader.next_chunk(buffer)).has_value());
  return reader.finish();
}

using CodecAndAccess = std::tuple<Codec, ImageReader::Access>;
class EveryCodec : public testing::TestWithParam<CodecAndAccess> {};

TEST_P(EveryCodec, WhatIsWrittenComesBack) {
  const auto [codec, access] = GetParam();
  const auto bytes = sample_bytes(codec);
  auto reader = ImageReader::from_bytes(bytes, access, {});
  ASSERT_TRUE(reader) << reader.error().to_string();
  const auto result = read_sample(*reader);
  EXPECT_TRUE(result) << result.error().to_string();
}

INSTANTIATE_TEST_SUITE_P(Image, EveryCodec,
                         testing::Combine(testing::Values(Codec::kNone, Codec::kLz4, Codec::kZstd),
                                          testing::Values(ImageReader::Access::kFile, ImageReader::Access::kStream)));

}  // namespace
}  // namespace stasis
