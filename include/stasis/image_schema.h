// SPDX-License-Identifier: Apache-2.0
// The declarative schema of image records: one description drives writing, reading, the text and JSON views and the
// format's document (doc/image-format.md).
//
//   struct FileRecord {
//     static constexpr RecordType kType = RecordType::kRegularFile;  // permanent number, src/image/record_types.h
//     static constexpr std::string_view kName = "regular_file";
//     std::string path;
//     std::uint64_t offset = 0;
//     ObjRef directory;
//     static constexpr auto fields() {
//       return std::tuple{field<1>("path", &FileRecord::path, MaxLength{4096}),
//                         field<2>("offset", &FileRecord::offset, Show::kHex),
//                         field<3>("directory", &FileRecord::directory, Null::kAllowed)};
//     }
//   };
//
// Members may be: bool, integers of 1 to 8 bytes, enum class, ObjRef, Id<...>, std::string (any bytes),
// std::vector<std::byte>, std::array and std::vector of scalars, std::vector<std::string>, other structs with fields()
// (and vectors of them), and std::optional of each. A struct without kType and kName is for nesting only.
//
// On the wire a struct is a sequence of fields: u16 id, u32 length, payload, all little-endian, ids ascending. Readers
// skip ids they do not know and keep the member's default for ids that are missing, so a struct grows by new ids at its
// end and ids are never reused. A duplicate id, a wrong size, a length beyond its bound or a null objref is an error.
// Enumerators without a name are refused where the enum has names (see enum_names below).
//
// Errors: kBadImage for malformed bytes, kImageTooDeep for nesting beyond kMaxNesting. Thread-safe: no state.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "stasis/objref.h"
#include "stasis/result.h"

namespace stasis {

static_assert(std::endian::native == std::endian::little, "the encoder copies little-endian numbers as they are");

// What kind of record follows. 1-15 framing, 16-191 the engine's (src/image/record_types.h); an application's own
// records take numbers from kFirstApplicationRecord upwards. A reader refuses an image with a record it does not know,
// unless the number has kIgnorableRecord set.
enum class RecordType : std::uint32_t;
inline constexpr std::uint32_t kFirstApplicationRecord = 0x1'0000;
inline constexpr std::uint32_t kIgnorableRecord = 0x8000'0000;

// Structs inside structs, and objects inside objects.
inline constexpr unsigned kMaxNesting = 64;

// How the views print a number.
enum class Show : std::uint8_t { kDecimal, kHex, kOctal };
// May an ObjRef be 0 ("none")?
enum class Null : std::uint8_t { kRefused, kAllowed };
// Most elements of a vector, or bytes of a string or blob, that are written or read.
struct MaxLength {
  std::uint32_t elements;
};

inline constexpr std::uint32_t kDefaultMaxBytes = 64u << 20;    // std::vector<std::byte>
inline constexpr std::uint32_t kDefaultMaxElements = 1u << 20;  // strings and every other vector

// One enumerator's name. An enum gets names, and with them a check at reading, by a constexpr function found by ADL:
//   constexpr auto enum_names(Colour) { return std::array{EnumName{Colour::kRed, "red"}, ...}; }
template <class E>
struct EnumName {
  E value;
  std::string_view name;
};

template <std::uint16_t Id, class Struct, class Member>
struct Field {
  static constexpr std::uint16_t kId = Id;
  using Value = Member;
  std::string_view name;
  Member Struct::* member;
  Show show = Show::kDecimal;
  Null null = Null::kRefused;
  std::uint32_t max_length = 0;  // 0: the default of the member's type

  constexpr void set(Show value) { show = value; }
  constexpr void set(Null value) { null = value; }
  constexpr void set(MaxLength value) { max_length = value.elements; }
};

// A row of fields(). Options: Show, Null, MaxLength, in any order.
template <std::uint16_t Id, class Struct, class Member, class... Options>
constexpr Field<Id, Struct, Member> field(std::string_view name, Member Struct::* member, Options... options) {
  static_assert(Id > 0, "0 is not an id");
  Field<Id, Struct, Member> row{name, member};
  (row.set(options), ...);
  return row;
}

template <class T>
concept SchemaStruct = requires { T::fields(); };
template <class T>
concept SchemaRecord = SchemaStruct<T> && requires {
  { T::kType } -> std::convertible_to<RecordType>;
  { T::kName } -> std::convertible_to<std::string_view>;
};

// What a view or a printer gets to see of a struct, in the order of fields(). Inside a list `name` is empty.
class SchemaVisitor {
 public:
  virtual ~SchemaVisitor() = default;
  virtual void number(std::string_view name, std::uint64_t value, Show show) = 0;
  virtual void signed_number(std::string_view name, std::int64_t value) = 0;
  virtual void boolean(std::string_view name, bool value) = 0;
  // `label` is empty where the enum has no names.
  virtual void enumerator(std::string_view name, std::uint64_t value, std::string_view label) = 0;
  virtual void objref(std::string_view name, ObjRef value) = 0;
  virtual void text(std::string_view name, std::string_view value) = 0;
  virtual void bytes(std::string_view name, std::span<const std::byte> value) = 0;
  virtual void absent(std::string_view name) = 0;
  virtual void begin_struct(std::string_view name) = 0;
  virtual void end_struct() = 0;
  virtual void begin_list(std::string_view name, std::size_t count) = 0;
  virtual void end_list() = 0;
};

// A row of the format's document.
struct FieldDoc {
  std::uint16_t id;
  std::string name;
  std::string type;          // "u64", "list of vma", ...
  std::uint32_t max_length;  // elements or bytes; 0 where the size is fixed
  std::vector<FieldDoc> nested;
};

namespace schema {

// ---- classification -------------------------------------------------------------------------------------------------

template <class T>
inline constexpr bool kIsVector = false;
template <class T>
inline constexpr bool kIsVector<std::vector<T>> = true;
template <class T>
inline constexpr bool kIsArray = false;
template <class T, std::size_t N>
inline constexpr bool kIsArray<std::array<T, N>> = true;
template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

template <class T>
concept IdLike = !std::same_as<T, ObjRef> && requires(const T& id) {
  typename T::rep;
  { id.value() } -> std::same_as<typename T::rep>;
  requires std::constructible_from<T, typename T::rep>;
};
template <class T>
concept Number = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char>;
template <class T>
concept Scalar = Number<T> || std::same_as<T, bool> || std::is_enum_v<T> || std::same_as<T, ObjRef> || IdLike<T>;
template <class T>
concept Text = std::same_as<T, std::string>;
template <class T>
concept Blob = std::same_as<T, std::vector<std::byte>>;
template <class T>
concept NamedEnum = std::is_enum_v<T> && requires(T value) { enum_names(value); };

// std::byte is an enum; arrays of it are bytes.
template <class T>
concept ByteLike = std::same_as<T, std::byte>;

template <class E>
constexpr std::string_view enum_label(E value) {
  if constexpr (NamedEnum<E>) {
    for (const auto& row : enum_names(value)) {
      if (row.value == value) return row.name;
    }
  }
  return {};
}

template <SchemaStruct T>
constexpr bool ids_ascend() {
  return std::apply(
      [](const auto&... rows) {
        std::uint32_t last = 0;
        bool good = true;
        ((good = good && rows.kId > last, last = rows.kId), ...);
        return good;
      },
      T::fields());
}

template <class T>
constexpr std::uint32_t bound_of(std::uint32_t stated) {
  if (stated != 0) return stated;
  return Blob<T> ? kDefaultMaxBytes : kDefaultMaxElements;
}

// ---- writing --------------------------------------------------------------------------------------------------------

// Collects the bytes of one record; the first error sticks.
class Encoder {
 public:
  explicit Encoder(std::vector<std::byte>& out) : out_(out) {}

  void raw(const void* data, std::size_t size) {
    const auto* first = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), first, first + size);
  }
  template <std::integral N>
  void number(N value) {
    raw(&value, sizeof value);
  }
  // Leaves room for a u32 length; patch_length() fills it with what was written since.
  std::size_t reserve_length() {
    number(std::uint32_t{0});
    return out_.size();
  }
  void patch_length(std::size_t start);
  void fail(std::string_view field, std::string_view why);
  Result<void> result() const;

 private:
  std::vector<std::byte>& out_;
  std::optional<Error> error_;
};

template <Scalar T>
auto scalar_to_wire(T value) {
  if constexpr (std::same_as<T, bool>) {
    return static_cast<std::uint8_t>(value);
  } else if constexpr (std::is_enum_v<T>) {
    return static_cast<std::underlying_type_t<T>>(value);
  } else if constexpr (std::integral<T>) {
    return value;
  } else {
    return value.value();
  }
}
template <Scalar T>
using Wire = decltype(scalar_to_wire(T{}));

template <class T, class Row>
void encode_value(Encoder& out, const T& value, const Row& row);

template <SchemaStruct T>
void encode_struct(Encoder& out, const T& value) {
  static_assert(ids_ascend<T>(), "fields() must list ids in ascending order, each once");
  auto one = [&](const auto& row) {
    const auto& member = value.*row.member;
    if constexpr (kIsOptional<std::remove_cvref_t<decltype(member)>>) {
      if (!member) return;
    }
    out.number(row.kId);
    const std::size_t start = out.reserve_length();
    if constexpr (kIsOptional<std::remove_cvref_t<decltype(member)>>) {
      encode_value(out, *member, row);
    } else {
      encode_value(out, member, row);
    }
    out.patch_length(start);
  };
  std::apply([&](const auto&... rows) { (one(rows), ...); }, T::fields());
}

template <class T, class Row>
void encode_scalar(Encoder& out, const T& value, const Row& row) {
  if constexpr (std::same_as<T, ObjRef>) {
    if (value.value() < 0 || (value.value() == 0 && row.null == Null::kRefused)) out.fail(row.name, "null objref");
  }
  if constexpr (NamedEnum<T>) {
    if (enum_label(value).empty()) out.fail(row.name, "value without a name");
  }
  out.number(scalar_to_wire(value));
}

template <class T, class Row>
void encode_elements(Encoder& out, const T& values, const Row& row) {
  using Element = typename T::value_type;
  if constexpr (Number<Element> || ByteLike<Element>) {
    out.raw(values.data(), values.size() * sizeof(Element));
  } else if constexpr (Scalar<Element>) {
    for (const Element& value : values) encode_scalar(out, value, row);
  } else {
    for (const Element& value : values) {
      const std::size_t start = out.reserve_length();
      encode_value(out, value, row);
      out.patch_length(start);
    }
  }
}

template <class T, class Row>
void encode_value(Encoder& out, const T& value, const Row& row) {
  if constexpr (Scalar<T>) {
    encode_scalar(out, value, row);
  } else if constexpr (Text<T>) {
    if (value.size() > bound_of<T>(row.max_length)) out.fail(row.name, "longer than its bound");
    out.raw(value.data(), value.size());
  } else if constexpr (kIsVector<T>) {
    if (value.size() > bound_of<T>(row.max_length)) out.fail(row.name, "longer than its bound");
    encode_elements(out, value, row);
  } else if constexpr (kIsArray<T>) {
    static_assert(Scalar<typename T::value_type>, "arrays hold scalars");
    encode_elements(out, value, row);
  } else {
    static_assert(SchemaStruct<T>, "this type of member has no place in a record");
    encode_struct(out, value);
  }
}

// ---- reading --------------------------------------------------------------------------------------------------------

// State of decoding one record: the first error sticks, with the field it happened in.
class DecodeState {
 public:
  bool fail(std::string_view field, std::string_view why, Errc code = Errc::kBadImage);
  bool enter();
  void leave() { --depth_; }
  bool failed() const { return error_.has_value(); }
  Result<void> result(std::string_view record) const;

 private:
  unsigned depth_ = 0;
  std::optional<Error> error_;
};

// Splits a struct's bytes into fields.
class FieldSplitter {
 public:
  FieldSplitter(std::span<const std::byte> bytes, DecodeState& state) : bytes_(bytes), state_(state) {}
  // False at the end and after an error.
  bool next(std::uint16_t& id, std::span<const std::byte>& payload);

 private:
  std::span<const std::byte> bytes_;
  DecodeState& state_;
  std::uint32_t last_id_ = 0;
};

// Takes {u32 length, payload} off the front of `bytes`; false if it does not fit.
bool take_element(std::span<const std::byte>& bytes, std::span<const std::byte>& payload);

template <class T, class Row>
bool decode_value(std::span<const std::byte> bytes, T& value, const Row& row, DecodeState& state);

template <SchemaStruct T>
bool decode_struct(std::span<const std::byte> bytes, T& value, DecodeState& state) {
  static_assert(ids_ascend<T>(), "fields() must list ids in ascending order, each once");
  if (!state.enter()) return false;
  bool good = true;
  FieldSplitter fields(bytes, state);
  std::uint16_t id = 0;
  std::span<const std::byte> payload;
  auto one = [&](const auto& row) {
    if (row.kId != id) return false;
    auto& member = value.*row.member;
    if constexpr (kIsOptional<std::remove_cvref_t<decltype(member)>>) {
      member.emplace();
      good = decode_value(payload, *member, row, state);
    } else {
      good = decode_value(payload, member, row, state);
    }
    return true;
  };
  while (good && fields.next(id, payload)) {
    std::apply([&](const auto&... rows) { (void)(one(rows) || ...); }, T::fields());
  }
  if (state.failed()) return false;
  auto present = [&](const auto& row) {
    if constexpr (std::same_as<typename std::remove_cvref_t<decltype(row)>::Value, ObjRef>) {
      if (row.null == Null::kRefused && !(value.*row.member)) good = state.fail(row.name, "null objref");
    }
  };
  std::apply([&](const auto&... rows) { (present(rows), ...); }, T::fields());
  state.leave();
  return good;
}

template <class T, class Row>
bool decode_scalar(std::span<const std::byte> bytes, T& value, const Row& row, DecodeState& state) {
  Wire<T> wire{};
  std::memcpy(&wire, bytes.data(), sizeof wire);
  if constexpr (std::same_as<T, bool>) {
    if (wire > 1) return state.fail(row.name, "a truth value that is neither 0 nor 1");
    value = wire != 0;
  } else if constexpr (std::same_as<T, ObjRef>) {
    if (wire < 0 || (wire == 0 && row.null == Null::kRefused)) return state.fail(row.name, "not a valid objref");
    value = ObjRef(wire);
  } else {
    value = static_cast<T>(wire);
    if constexpr (NamedEnum<T>) {
      if (enum_label(value).empty()) return state.fail(row.name, "unknown value");
    }
  }
  return true;
}

template <class T, class Row>
bool decode_packed(std::span<const std::byte> bytes, T& values, const Row& row, DecodeState& state) {
  using Element = typename T::value_type;
  if constexpr (Number<Element> || ByteLike<Element>) {
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  } else {
    for (std::size_t i = 0; i < values.size(); ++i) {
      Element element{};
      if (!decode_scalar(bytes.subspan(i * sizeof(Wire<Element>)), element, row, state)) return false;
      values[i] = element;
    }
  }
  return true;
}

template <class T, class Row>
bool decode_vector(std::span<const std::byte> bytes, T& values, const Row& row, DecodeState& state) {
  using Element = typename T::value_type;
  const std::uint32_t bound = bound_of<T>(row.max_length);
  if constexpr (Scalar<Element>) {
    if (bytes.size() % sizeof(Wire<Element>) != 0)
      return state.fail(row.name, "length is not a multiple of the element");
    const std::size_t count = bytes.size() / sizeof(Wire<Element>);
    if (count > bound) return state.fail(row.name, "longer than its bound");
    values.resize(count);
    return decode_packed(bytes, values, row, state);
  } else {
    std::span<const std::byte> payload;
    values.clear();
    while (!bytes.empty()) {
      if (!take_element(bytes, payload)) return state.fail(row.name, "an element exceeds its list");
      if (values.size() == bound) return state.fail(row.name, "longer than its bound");
      if (!decode_value(payload, values.emplace_back(), row, state)) return false;
    }
    return true;
  }
}

template <class T, class Row>
bool decode_value(std::span<const std::byte> bytes, T& value, const Row& row, DecodeState& state) {
  if constexpr (Scalar<T>) {
    if (bytes.size() != sizeof(Wire<T>)) return state.fail(row.name, "wrong size");
    return decode_scalar(bytes, value, row, state);
  } else if constexpr (Text<T>) {
    if (bytes.size() > bound_of<T>(row.max_length)) return state.fail(row.name, "longer than its bound");
    value.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return true;
  } else if constexpr (kIsVector<T>) {
    return decode_vector(bytes, value, row, state);
  } else if constexpr (kIsArray<T>) {
    if (bytes.size() != value.size() * sizeof(Wire<typename T::value_type>)) return state.fail(row.name, "wrong size");
    return decode_packed(bytes, value, row, state);
  } else {
    static_assert(SchemaStruct<T>, "this type of member has no place in a record");
    return decode_struct(bytes, value, state);
  }
}

// ---- views ----------------------------------------------------------------------------------------------------------

template <class T, class Row>
void visit_value(SchemaVisitor& visitor, std::string_view name, const T& value, const Row& row);

template <SchemaStruct T>
void visit_members(SchemaVisitor& visitor, const T& value) {
  auto one = [&](const auto& row) {
    const auto& member = value.*row.member;
    if constexpr (kIsOptional<std::remove_cvref_t<decltype(member)>>) {
      if (!member) return visitor.absent(row.name);
      visit_value(visitor, row.name, *member, row);
    } else {
      visit_value(visitor, row.name, member, row);
    }
  };
  std::apply([&](const auto&... rows) { (one(rows), ...); }, T::fields());
}

template <class T, class Row>
void visit_scalar(SchemaVisitor& visitor, std::string_view name, const T& value, const Row& row) {
  if constexpr (std::same_as<T, bool>) {
    visitor.boolean(name, value);
  } else if constexpr (std::is_enum_v<T>) {
    visitor.enumerator(name, static_cast<std::uint64_t>(value), enum_label(value));
  } else if constexpr (std::same_as<T, ObjRef>) {
    visitor.objref(name, value);
  } else if constexpr (std::signed_integral<Wire<T>>) {
    visitor.signed_number(name, scalar_to_wire(value));
  } else {
    visitor.number(name, scalar_to_wire(value), row.show);
  }
}

template <class T, class Row>
void visit_value(SchemaVisitor& visitor, std::string_view name, const T& value, const Row& row) {
  if constexpr (Scalar<T>) {
    visit_scalar(visitor, name, value, row);
  } else if constexpr (Text<T>) {
    visitor.text(name, value);
  } else if constexpr (kIsVector<T> || kIsArray<T>) {
    using Element = typename T::value_type;
    if constexpr (sizeof(Element) == 1 && (ByteLike<Element> || Number<Element>)) {
      visitor.bytes(name, std::as_bytes(std::span(value)));
    } else {
      visitor.begin_list(name, value.size());
      for (const Element& element : value) visit_value(visitor, {}, element, row);
      visitor.end_list();
    }
  } else {
    visitor.begin_struct(name);
    visit_members(visitor, value);
    visitor.end_struct();
  }
}

// ---- document -------------------------------------------------------------------------------------------------------

std::string number_type_name(std::size_t size, std::string_view prefix);

template <class T>
std::string type_name() {
  if constexpr (kIsOptional<T>) {
    return "optional " + type_name<typename T::value_type>();
  } else if constexpr (std::same_as<T, bool>) {
    return "bool";
  } else if constexpr (ByteLike<T>) {
    return "byte";
  } else if constexpr (std::is_enum_v<T>) {
    return number_type_name(sizeof(T), "enum u");
  } else if constexpr (std::same_as<T, ObjRef>) {
    return "objref";
  } else if constexpr (Scalar<T>) {
    return number_type_name(sizeof(T), std::signed_integral<Wire<T>> ? "i" : "u");
  } else if constexpr (Text<T>) {
    return "text";
  } else if constexpr (Blob<T>) {
    return "bytes";
  } else if constexpr (kIsVector<T>) {
    return "list of " + type_name<typename T::value_type>();
  } else if constexpr (kIsArray<T>) {
    return std::to_string(std::tuple_size_v<T>) + " x " + type_name<typename T::value_type>();
  } else {
    return "struct";
  }
}

template <class T>
struct Innermost {
  using type = T;
};
template <class T>
struct Innermost<std::vector<T>> : Innermost<T> {};
template <class T>
struct Innermost<std::optional<T>> : Innermost<T> {};

template <SchemaStruct T>
std::vector<FieldDoc> describe(unsigned depth = 0) {
  std::vector<FieldDoc> rows;
  auto one = [&](const auto& row) {
    using Value = typename std::remove_cvref_t<decltype(row)>::Value;
    using Inner = typename Innermost<Value>::type;
    FieldDoc doc{row.kId, std::string(row.name), type_name<Value>(), 0, {}};
    if constexpr (kIsVector<Value> || Text<Inner>) doc.max_length = bound_of<Value>(row.max_length);
    if constexpr (SchemaStruct<Inner> && !std::same_as<Inner, T>) {
      if (depth < kMaxNesting) doc.nested = describe<Inner>(depth + 1);
    }
    rows.push_back(std::move(doc));
  };
  std::apply([&](const auto&... fields) { (one(fields), ...); }, T::fields());
  return rows;
}

}  // namespace schema

// Appends the fields of `value` to `out`. Error (kInvalidArgument) where a reader would refuse the result.
template <SchemaStruct T>
Result<void> encode(const T& value, std::vector<std::byte>& out) {
  schema::Encoder encoder(out);
  schema::encode_struct(encoder, value);
  return encoder.result();
}

// The struct in `bytes`, every length and value checked. `what` names it in the error.
template <SchemaStruct T>
Result<T> decode(std::span<const std::byte> bytes, std::string_view what) {
  T value{};
  schema::DecodeState state;
  if (!schema::decode_struct(bytes, value, state)) return state.result(what).error();
  return value;
}

template <SchemaStruct T>
void visit(const T& value, SchemaVisitor& visitor) {
  schema::visit_members(visitor, value);
}

// ---- registry of record types ---------------------------------------------------------------------------------------

// What the views, the format's document and the reader's check for unknown records need to know of a record type.
struct RecordInfo {
  RecordType type;
  std::string_view name;
  Result<void> (*view)(std::span<const std::byte> payload, SchemaVisitor& visitor);
  std::vector<FieldDoc> (*describe)();
};

using RecordRegistry = std::span<const RecordInfo>;

template <SchemaRecord T>
constexpr RecordInfo record_info() {
  return RecordInfo{T::kType, T::kName,
                    [](std::span<const std::byte> payload, SchemaVisitor& visitor) -> Result<void> {
                      const T value = STASIS_TRY(decode<T>(payload, T::kName));
                      visit(value, visitor);
                      return {};
                    },
                    [] { return schema::describe<T>(); }};
}

// constexpr auto kRecords = record_registry<FooRecord, BarRecord>();  RecordRegistry is a span over it.
template <SchemaRecord... Records>
constexpr std::array<RecordInfo, sizeof...(Records)> record_registry() {
  return {record_info<Records>()...};
}

}  // namespace stasis
