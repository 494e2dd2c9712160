// SPDX-License-Identifier: Apache-2.0
// Every byte of a small image changed, and the image cut at every length: an Error each time, of the right kind.
#include <gtest/gtest.h>

#include "image/format.h"
#include "image/sample_image.h"
#include "image/verify.h"

namespace stasis {
namespace {

using Access = ImageReader::Access;
using Bytes = std::vector<std::byte>;
constexpr auto kRecords = record_registry<sample::LeafRecord, sample::AllRecord, sample::NoteRecord>();

Bytes sample_bytes(Codec codec) {
  const sample::ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.codec = codec, .durability = Durability::kFast});
  EXPECT_TRUE(writer);
  EXPECT_TRUE(sample::write_sample(*writer));
  EXPECT_TRUE(writer->publish());
  return sample::file_bytes(dir / "x.img");
}

Result<void> read_everything(std::span<const std::byte> image, Access access) {
  ImageReader reader = STASIS_TRY(ImageReader::from_bytes(image, access, {.known = kRecords}));
  reader.set_object_handler([&](ObjRef, ObjType) -> Result<void> {
    STASIS_TRY(reader.read<sample::LeafRecord>());
    return {};
  });
  STASIS_TRY(reader.read<sample::AllRecord>());
  STASIS_TRY(reader.expect_end());
  STASIS_TRY(verify_image(reader, {.threads = 1, .known = kRecords}));
  return {};
}

// The sanitizers are some twenty times slower, and every byte was tried without them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kStep = 17;
#else
constexpr std::size_t kStep = 1;
#endif

bool is_image_error(Errc code) { return errc_info(code).exit_status == 4; }

class Damage : public testing::TestWithParam<std::tuple<Codec, Access>> {
 protected:
  Codec codec() const { return std::get<0>(GetParam()); }
  Access access() const { return std::get<1>(GetParam()); }
};

TEST_P(Damage, AnyFlippedByteIsNoticed) {
  Bytes image = sample_bytes(codec());
  ASSERT_TRUE(read_everything(image, access()));
  for (std::size_t i = 0; i < image.size(); i += kStep) {
    // Bits high and low, so that lengths become both a little and very much too large.
    const auto mask = std::byte{1} << static_cast<int>(i % 8);
    image[i] ^= mask;
    const auto result = read_everything(image, access());
    ASSERT_FALSE(result) << "byte " << i;
    ASSERT_TRUE(is_image_error(result.error().code())) << "byte " << i << ": " << result.error().to_string();
    image[i] ^= mask;
  }
}

TEST_P(Damage, AnyTruncationIsNoticed) {
  const Bytes image = sample_bytes(codec());
  for (std::size_t n = 0; n < image.size(); n += kStep) {
    const auto result = read_everything(std::span(image).first(n), access());
    ASSERT_FALSE(result) << n << " bytes";
    ASSERT_EQ(result.error().code(), Errc::kImageTruncated) << n << " bytes: " << result.error().to_string();
  }
}

TEST_P(Damage, AForeignFileIsNoImage) {
  const Bytes zeros(100'000);
  const auto result = read_everything(zeros, access());
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "this is not a Stasis image");
}

INSTANTIATE_TEST_SUITE_P(Image, Damage,
                         testing::Combine(testing::Values(Codec::kNone, Codec::kZstd),
                                          testing::Values(Access::kFile, Access::kStream)));

TEST(DamageFile, BytesBehindTheEndAreNoticed) {
  Bytes image = sample_bytes(Codec::kNone);
  image.push_back(std::byte{0});
  const auto result = read_everything(image, Access::kFile);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "there are bytes behind the image's end");
}

TEST(DamageFile, AnotherVersionIsNamed) {
  Bytes image = sample_bytes(Codec::kNone);
  const auto preamble = make_preamble(kImageVersion + 1);
  std::ranges::copy(preamble, image.begin());
  for (const Access access : {Access::kFile, Access::kStream}) {
    const auto result = read_everything(image, access);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), Errc::kImageVersion);
    EXPECT_EQ(result.error().message(), "the image has format version 2, this program reads version 1");
  }
}

}  // namespace
}  // namespace stasis
