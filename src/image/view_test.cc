// SPDX-License-Identifier: Apache-2.0
#include "image/view.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "image/sample_image.h"

namespace stasis {
namespace {

constexpr auto kRecords = record_registry<sample::LeafRecord, sample::AllRecord, sample::NoteRecord>();
constexpr std::array kObjectNames{EnumName{sample::kLeafObject, "leaf"}};

std::string view(const std::vector<std::byte>& image, ImageReader::Access access, const ViewOptions& options) {
  auto reader = ImageReader::from_bytes(image, access, {});
  if (!reader) return reader.error().to_string();
  std::string text;
  const auto result = view_image(*reader, options, [&](std::string_view part) { text += part; });
  if (!result) return result.error().to_string();
  return text;
}

std::vector<std::byte> sample_bytes() {
  const sample::ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.durability = Durability::kFast});
  EXPECT_TRUE(writer);
  EXPECT_TRUE(sample::write_sample(*writer));
  EXPECT_TRUE(writer->publish());
  return sample::file_bytes(dir / "x.img");
}

TEST(View, TextIsReadableAndStable) {
  const std::string text =
      view(sample_bytes(), ImageReader::Access::kFile, {.records = kRecords, .object_names = kObjectNames});
  const std::string expected = R"(object 1: leaf
leaf
  name: "first"
  parent: none
object 2: leaf
leaf
  name: "second"
  parent: object 1
all
  flag: yes
  u8: 200
  u16: 0644
  u32: 4000000000
  u64: 0x1122334455667788
  i32: -5
  i64: -6000000000
  colour: blue
  text: "a\x00b\xff\x0a\""
  blob: 01fe (2 bytes)
  object: object 2
  pid: 77
  small: 01020304 (4 bytes)
  wide: 2 elements
    - 0x5
    - 0x6
  numbers: 3 elements
    - 7
    - 8
    - 9
  texts: 2 elements
    - ""
    - "two"
  point:
    x: -1
    y: 2
  points: 2 elements
    -
      x: 3
      y: 4
    -
      x: 5
      y: 6
  maybe: -
  objects: 2 elements
    - object 1
    - object 2
note
  text: "may be passed over"
)";
  EXPECT_NE(text.find(expected), std::string::npos) << text;
  EXPECT_TRUE(text.starts_with("stasis image, format 1\nenvironment\n  arch: x86_64\n  page_size: 4096\n")) << text;
  EXPECT_NE(text.find("\nchunk\n  object: object 1\n  codec: none\n  raw_size: 8192\n"), std::string::npos) << text;
}

TEST(View, JsonHoldsTheSame) {
  const std::string text = view(sample_bytes(), ImageReader::Access::kFile,
                                {.format = ViewFormat::kJson, .records = kRecords, .object_names = kObjectNames});
  const auto json = nlohmann::json::parse(text, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << text;
  EXPECT_EQ(json["format"], 1);
  ASSERT_EQ(json["records"].size(), 7u);
  EXPECT_EQ(json["records"][0]["fields"]["kernel_release"], "6.1.0-test");
  EXPECT_EQ(json["records"][1], (nlohmann::json{{"record", "object"}, {"ref", 1}, {"type", "leaf"}}));
  const auto& all = json["records"][5]["fields"];
  EXPECT_EQ(all["u64"], "0x1122334455667788");
  EXPECT_EQ(all["u32"], 4'000'000'000);
  EXPECT_EQ(all["text"]["escaped"], "a\\x00b\\xff\\x0a\\\"");
  EXPECT_EQ(all["blob"], "01fe");
  EXPECT_EQ(all["points"][1]["y"], 6);
  EXPECT_TRUE(all["maybe"].is_null());
  ASSERT_EQ(json["chunks"].size(), 2u);
  EXPECT_EQ(json["chunks"][0]["runs"][1]["start"], "0x20000");
  EXPECT_EQ(json["image"].get<std::string>().size(), 32u);
}

TEST(View, StreamAndFileLookTheSame) {
  const auto image = sample_bytes();
  for (const ViewFormat format : {ViewFormat::kText, ViewFormat::kJson}) {
    const ViewOptions options{.format = format, .records = kRecords};
    EXPECT_EQ(view(image, ImageReader::Access::kFile, options), view(image, ImageReader::Access::kStream, options));
  }
}

TEST(View, RecordsOfUnknownTypesAreShownAsBytes) {
  const auto image = sample_bytes();
  const std::string text = view(image, ImageReader::Access::kFile, {});
  EXPECT_NE(text.find("unknown type 65539 (ignorable): 0100120000006d6179206265"), std::string::npos) << text;
  const auto json =
      nlohmann::json::parse(view(image, ImageReader::Access::kFile, {.format = ViewFormat::kJson}), nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_EQ(json["records"][6]["type"], 65539);
}

TEST(View, AnImageWithoutPagesIsStillJson) {
  const sample::ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.durability = Durability::kFast});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->write(sample::environment()));
  ASSERT_TRUE(writer->end_structure());
  ASSERT_TRUE(writer->publish());
  std::string text;
  ASSERT_TRUE(
      inspect_image(dir / "x.img", {.format = ViewFormat::kJson}, [&](std::string_view part) { text += part; }));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << text;
  EXPECT_TRUE(json["chunks"].empty());
}

TEST(View, Utf8IsToldFromOtherBytes) {
  EXPECT_TRUE(is_utf8("plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"));
  EXPECT_FALSE(is_utf8("\xc3"));
  EXPECT_FALSE(is_utf8("\xc0\x80"));
  EXPECT_FALSE(is_utf8("\xed\xa0\x80"));
  EXPECT_FALSE(is_utf8("\xf4\x90\x80\x80"));
  EXPECT_FALSE(is_utf8("\xe0\x80\x80"));
  EXPECT_EQ(escape_text("a\\b\"\t\xc3\xa9\xff"), "a\\\\b\\\"\\x09\xc3\xa9\\xff");
}

}  // namespace
}  // namespace stasis
