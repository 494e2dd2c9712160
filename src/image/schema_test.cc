// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "image/sample_image.h"
#include "stasis/image_schema.h"

namespace stasis {
namespace {

using sample::AllRecord;
using sample::LeafRecord;
using Bytes = std::vector<std::byte>;

template <class T>
Bytes encoded(const T& value) {
  Bytes bytes;
  EXPECT_TRUE(encode(value, bytes));
  return bytes;
}

// One field with a payload of the given bytes.
Bytes raw_field(std::uint16_t id, std::initializer_list<int> payload) {
  Bytes bytes;
  schema::Encoder out(bytes);
  out.number(id);
  out.number(static_cast<std::uint32_t>(payload.size()));
  for (const int byte : payload) out.number(static_cast<std::uint8_t>(byte));
  return bytes;
}

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Errc error_of(const Bytes& bytes, auto type) {
  const auto result = decode<typename decltype(type)::type>(bytes, "x");
  return result ? Errc{0} : result.error().code();
}
template <class T>
Errc decode_error(const Bytes& bytes) {
  return error_of(bytes, std::type_identity<T>{});
}

constexpr auto kGood = Errc{0};

struct Wide {
  std::uint32_t first = 1;
  std::string added = "default";
  static constexpr auto fields() {
    return std::tuple{field<1>("first", &Wide::first), field<9>("added", &Wide::added)};
  }
};
struct Narrow {
  std::uint32_t first = 1;
  static constexpr auto fields() { return std::tuple{field<1>("first", &Narrow::first)}; }
};
struct Nest {
  std::vector<Nest> inner;
  static constexpr auto fields() { return std::tuple{field<1>("inner", &Nest::inner)}; }
};

// Schemas that encode() and decode() refuse to compile.
struct Twice {
  int a = 0;
  static constexpr auto fields() { return std::tuple{field<1>("a", &Twice::a), field<1>("a", &Twice::a)}; }
};
struct Backwards {
  int a = 0;
  int b = 0;
  static constexpr auto fields() { return std::tuple{field<2>("a", &Backwards::a), field<1>("b", &Backwards::b)}; }
};
static_assert(!schema::ids_ascend<Twice>() && !schema::ids_ascend<Backwards>() && schema::ids_ascend<Wide>());
static_assert(SchemaRecord<LeafRecord> && !SchemaRecord<Narrow> && !SchemaStruct<int>);

TEST(Schema, EveryTypeOfMemberComesBack) {
  const AllRecord record = sample::all_record();
  const auto back = decode<AllRecord>(encoded(record), "all");
  ASSERT_TRUE(back) << back.error().to_string();
  EXPECT_EQ(*back, record);
  AllRecord with = record;
  with.maybe = 0;
  EXPECT_EQ(*decode<AllRecord>(encoded(with), "all"), with);
}

TEST(Schema, BytesAreAsDocumented) {
  EXPECT_EQ(encoded(Narrow{0x01020304}), raw_field(1, {4, 3, 2, 1}));
  EXPECT_EQ(encoded(LeafRecord{"ab", ObjRef(5)}), raw_field(1, {'a', 'b'}) + raw_field(2, {5, 0, 0, 0}));
}

TEST(Schema, UnknownFieldsAreSkippedAndMissingOnesKeepTheirDefault) {
  const auto narrow = decode<Narrow>(encoded(Wide{7, "new"}), "narrow");
  ASSERT_TRUE(narrow);
  EXPECT_EQ(narrow->first, 7u);
  const auto wide = decode<Wide>(encoded(Narrow{8}), "wide");
  ASSERT_TRUE(wide);
  EXPECT_EQ(wide->first, 8u);
  EXPECT_EQ(wide->added, "default");
}

TEST(Schema, DuplicateAndUnorderedFieldsAreRefused) {
  const Bytes one = raw_field(1, {1, 0, 0, 0});
  EXPECT_EQ(decode_error<Narrow>(one), kGood);
  EXPECT_EQ(decode_error<Narrow>(one + one), Errc::kBadImage);
  EXPECT_EQ(decode_error<Narrow>(raw_field(50, {}) + one), Errc::kBadImage);
  EXPECT_EQ(decode_error<Narrow>(one + raw_field(50, {}) + raw_field(50, {})), Errc::kBadImage);
  EXPECT_EQ(decode_error<Narrow>(raw_field(0, {})), Errc::kBadImage);
}

TEST(Schema, WrongSizesAreRefused) {
  EXPECT_EQ(decode_error<Narrow>(raw_field(1, {1, 0, 0})), Errc::kBadImage);
  EXPECT_EQ(decode_error<Narrow>(raw_field(1, {1, 0, 0, 0, 0})), Errc::kBadImage);
  EXPECT_EQ(decode_error<Narrow>(raw_field(1, {})), Errc::kBadImage);
  EXPECT_EQ(decode_error<Narrow>({std::byte{1}}), Errc::kBadImage);
  const Bytes good = encoded(sample::all_record());
  for (std::size_t n = 1; n < good.size(); ++n) {
    const auto part = decode<AllRecord>(std::span(good).first(n), "all");
    // A cut between two fields is a record that lacks some; any other cut is an error.
    if (part) {
      EXPECT_NE(*part, sample::all_record());
    }
  }
  // The packed list's length is no multiple of its element.
  EXPECT_EQ(decode_error<AllRecord>(raw_field(11, {1, 0, 0, 0}) + raw_field(15, {1, 2, 3})), Errc::kBadImage);
  EXPECT_EQ(decode_error<AllRecord>(raw_field(11, {1, 0, 0, 0}) + raw_field(13, {1, 2, 3})), Errc::kBadImage);
  // An element that exceeds its list.
  EXPECT_EQ(decode_error<AllRecord>(raw_field(11, {1, 0, 0, 0}) + raw_field(16, {9, 0, 0, 0, 1})), Errc::kBadImage);
  EXPECT_EQ(decode_error<AllRecord>(raw_field(11, {1, 0, 0, 0}) + raw_field(16, {9, 0, 0})), Errc::kBadImage);
}

TEST(Schema, LengthsBeyondTheirBoundAreRefusedByReaderAndWriter) {
  LeafRecord leaf{std::string(64, 'x'), ObjRef(1)};
  EXPECT_EQ(decode_error<LeafRecord>(encoded(leaf)), kGood);
  leaf.name += 'x';
  Bytes bytes;
  const auto refused = encode(leaf, bytes);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kInvalidArgument);
  EXPECT_EQ(decode_error<LeafRecord>(bytes), Errc::kBadImage);

  AllRecord all = sample::all_record();
  all.points.resize(5);
  bytes.clear();
  EXPECT_FALSE(encode(all, bytes));
  EXPECT_EQ(decode_error<AllRecord>(bytes), Errc::kBadImage);
  all = sample::all_record();
  all.numbers.resize(9);
  bytes.clear();
  EXPECT_FALSE(encode(all, bytes));
  EXPECT_EQ(decode_error<AllRecord>(bytes), Errc::kBadImage);
}

TEST(Schema, NullAndNegativeObjrefsAreRefusedUnlessAllowed) {
  AllRecord all = sample::all_record();
  Bytes bytes;
  all.object = ObjRef();
  EXPECT_FALSE(encode(all, bytes));
  EXPECT_EQ(decode_error<AllRecord>(bytes), Errc::kBadImage);
  EXPECT_EQ(decode_error<AllRecord>(Bytes()), Errc::kBadImage) << "a missing objref is a null one";
  EXPECT_EQ(decode_error<AllRecord>(raw_field(11, {255, 255, 255, 255})), Errc::kBadImage);
  EXPECT_EQ(decode_error<AllRecord>(raw_field(11, {1, 0, 0, 0}) + raw_field(20, {1, 0, 0, 0, 0, 0, 0, 0})),
            Errc::kBadImage);
  EXPECT_EQ(decode_error<LeafRecord>(raw_field(2, {0, 0, 0, 0})), kGood);
  EXPECT_EQ(decode_error<LeafRecord>(raw_field(2, {255, 255, 255, 255})), Errc::kBadImage);
}

TEST(Schema, ValuesOutsideTheirTypeAreRefused) {
  const Bytes object = raw_field(11, {1, 0, 0, 0});
  EXPECT_EQ(decode_error<AllRecord>(raw_field(1, {1}) + object), kGood);
  EXPECT_EQ(decode_error<AllRecord>(raw_field(1, {2}) + object), Errc::kBadImage);
  EXPECT_EQ(decode_error<AllRecord>(raw_field(8, {3}) + object), kGood);
  EXPECT_EQ(decode_error<AllRecord>(raw_field(8, {2}) + object), Errc::kBadImage) << "2 is no colour";
}

TEST(Schema, StructsNestAtMostSixtyFourDeep) {
  Bytes bytes;
  for (unsigned depth = 1; depth < 3 * kMaxNesting; ++depth) {
    EXPECT_EQ(decode_error<Nest>(bytes), depth <= kMaxNesting ? kGood : Errc::kImageTooDeep) << depth;
    Bytes outer;
    schema::Encoder out(outer);
    out.number(std::uint16_t{1});
    out.number(static_cast<std::uint32_t>(bytes.size() + 4));
    out.number(static_cast<std::uint32_t>(bytes.size()));
    bytes = outer + bytes;
  }
}

TEST(Schema, ErrorsNameRecordAndField) {
  const auto result = decode<LeafRecord>(raw_field(2, {1}), "leaf");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "record leaf: field parent: wrong size");
}

TEST(Schema, DescribesItself) {
  const auto rows = schema::describe<AllRecord>();
  ASSERT_EQ(rows.size(), 20u);
  EXPECT_EQ(rows[4].type, "u64");
  EXPECT_EQ(rows[7].type, "enum u8");
  EXPECT_EQ(rows[8].max_length, 32u);
  EXPECT_EQ(rows[12].type, "4 x u8");
  EXPECT_EQ(rows[15].type, "list of text");
  EXPECT_EQ(rows[17].type, "list of struct");
  ASSERT_EQ(rows[17].nested.size(), 2u);
  EXPECT_EQ(rows[17].nested[1].name, "y");
  EXPECT_EQ(rows[18].type, "optional u32");
}

}  // namespace
}  // namespace stasis
