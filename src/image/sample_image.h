// SPDX-License-Identifier: Apache-2.0
// For the tests of this layer: a schema with every type of member, a small image made of it, and a scratch directory.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/file.h"
#include "base/ids.h"
#include "image/record_types.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis::sample {

inline constexpr RecordType kLeafType{kFirstApplicationRecord + 1};
inline constexpr RecordType kAllType{kFirstApplicationRecord + 2};
inline constexpr RecordType kNoteType{(kFirstApplicationRecord + 3) | kIgnorableRecord};
inline constexpr ObjType kLeafObject{7};
inline constexpr std::size_t kSamplePage = kPayloadAlignment;

enum class Colour : std::uint8_t { kRed = 1, kBlue = 3 };
constexpr auto enum_names(Colour) { return std::array{EnumName{Colour::kRed, "red"}, EnumName{Colour::kBlue, "blue"}}; }
using SamplePid = Id<struct SamplePidTag, std::int32_t>;

struct Point {
  std::int64_t x = 0;
  std::int32_t y = 0;
  bool operator==(const Point&) const = default;
  static constexpr auto fields() { return std::tuple{field<1>("x", &Point::x), field<2>("y", &Point::y)}; }
};

// The record of a shared object.
struct LeafRecord {
  static constexpr RecordType kType = kLeafType;
  static constexpr std::string_view kName = "leaf";
  std::string name;
  ObjRef parent;
  bool operator==(const LeafRecord&) const = default;
  static constexpr auto fields() {
    return std::tuple{field<1>("name", &LeafRecord::name, MaxLength{64}),
                      field<2>("parent", &LeafRecord::parent, Null::kAllowed)};
  }
};

// Every type a member may have.
struct AllRecord {
  static constexpr RecordType kType = kAllType;
  static constexpr std::string_view kName = "all";
  bool flag = false;
  std::uint8_t u8 = 0;
  std::uint16_t u16 = 0;
  std::uint32_t u32 = 0;
  std::uint64_t u64 = 0;
  std::int32_t i32 = 0;
  std::int64_t i64 = 0;
  Colour colour = Colour::kRed;
  std::string text;
  std::vector<std::byte> blob;
  ObjRef object;
  SamplePid pid;
  std::array<std::uint8_t, 4> small{};
  std::array<std::uint64_t, 2> wide{};
  std::vector<std::uint32_t> numbers;
  std::vector<std::string> texts;
  Point point;
  std::vector<Point> points;
  std::optional<std::uint32_t> maybe;
  std::vector<ObjRef> objects;
  bool operator==(const AllRecord&) const = default;
  static constexpr auto fields() {
    using A = AllRecord;
    return std::tuple{field<1>("flag", &A::flag),
                      field<2>("u8", &A::u8),
                      field<3>("u16", &A::u16, Show::kOctal),
                      field<4>("u32", &A::u32),
                      field<5>("u64", &A::u64, Show::kHex),
                      field<6>("i32", &A::i32),
                      field<7>("i64", &A::i64),
                      field<8>("colour", &A::colour),
                      field<9>("text", &A::text, MaxLength{32}),
                      field<10>("blob", &A::blob),
                      field<11>("object", &A::object),
                      field<12>("pid", &A::pid),
                      field<13>("small", &A::small),
                      field<14>("wide", &A::wide, Show::kHex),
                      field<15>("numbers", &A::numbers, MaxLength{8}),
                      field<16>("texts", &A::texts),
                      field<17>("point", &A::point),
                      field<18>("points", &A::points, MaxLength{4}),
                      field<19>("maybe", &A::maybe),
                      field<20>("objects", &A::objects)};
  }
};

struct NoteRecord {
  static constexpr RecordType kType = kNoteType;
  static constexpr std::string_view kName = "note";
  std::string text;
  static constexpr auto fields() { return std::tuple{field<1>("text", &NoteRecord::text)}; }
};

inline AllRecord all_record() {
  AllRecord r;
  r.flag = true;
  r.u8 = 200;
  r.u16 = 0644;
  r.u32 = 4'000'000'000;
  r.u64 = 0x1122334455667788;
  r.i32 = -5;
  r.i64 = -6'000'000'000;
  r.colour = Colour::kBlue;
  r.text = std::string("a\0b\xff\n\"", 6);
  r.blob = {std::byte{1}, std::byte{0xfe}};
  r.object = ObjRef(2);
  r.pid = SamplePid(77);
  r.small = {1, 2, 3, 4};
  r.wide = {5, 6};
  r.numbers = {7, 8, 9};
  r.texts = {"", "two"};
  r.point = {-1, 2};
  r.points = {{3, 4}, {5, 6}};
  r.objects = {ObjRef(1), ObjRef(2)};
  return r;
}

// The same on every machine and day.
inline EnvironmentRecord environment() {
  EnvironmentRecord e;
  e.page_size = kSamplePage;
  e.kernel_release = "6.1.0-test";
  e.boot_id = "00000000-0000-0000-0000-000000000001";
  e.realtime_ns = 1'700'000'000'000'000'000;
  e.monotonic_ns = 12'345'678'900;
  e.boottime_ns = 12'345'678'999;
  e.xcr0 = 0x2e7;
  e.cpuid = {{1, 0, {1, 2, 3, 4}}};
  e.vdso = {std::byte{0x7f}, std::byte{'E'}};
  e.vdso_build_id = {std::byte{0xab}};
  e.creator = "stasis test";
  e.created_ns = 1'700'000'000'000'000'001;
  return e;
}

// `count` pages whose bytes depend on `seed`; half of each page is one value, so that codecs find something.
inline std::vector<std::byte> pages(std::size_t count, std::uint32_t seed) {
  std::vector<std::byte> bytes(count * kSamplePage);
  std::uint32_t state = seed * 2654435761u + 1;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    bytes[i] = i % kSamplePage < kSamplePage / 2 ? static_cast<std::byte>(state >> 24) : static_cast<std::byte>(seed);
  }
  return bytes;
}

// environment; object 1 (leaf), object 2 (leaf whose parent is 1), all; note; two chunks of objects 1 and 2.
inline Result<void> write_sample(ImageWriter& writer) {
  STASIS_TRY(writer.write(environment()));
  STASIS_TRY(writer.begin_object(ObjRef(1), kLeafObject));
  STASIS_TRY(writer.write(LeafRecord{"first", ObjRef()}));
  STASIS_TRY(writer.begin_object(ObjRef(2), kLeafObject));
  STASIS_TRY(writer.write(LeafRecord{"second", ObjRef(1)}));
  STASIS_TRY(writer.write(all_record()));
  STASIS_TRY(writer.write(NoteRecord{"may be passed over"}));
  STASIS_TRY(writer.end_structure());
  const std::array runs{PageRun{0x10000, 0x1000}, PageRun{0x20000, 0x1000}};
  STASIS_TRY(writer.add_chunk(ObjRef(1), runs, pages(2, 1)));
  const std::array more{PageRun{0x7ffffffff000, 0x1000}};
  return writer.add_chunk(ObjRef(2), more, pages(1, 2));
}

// A directory of its own that goes with everything in it.
class ScratchDir {
 public:
  ScratchDir() {
    std::string name = std::filesystem::temp_directory_path() / "stasis-image-XXXXXX";
    if (::mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  ~ScratchDir() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::string path_;
};

inline std::vector<std::byte> file_bytes(const std::string& path) {
  const auto text = read_file(AT_FDCWD, path);
  if (!text) return {};
  const auto bytes = std::as_bytes(std::span(*text));
  return {bytes.begin(), bytes.end()};
}

}  // namespace stasis::sample
