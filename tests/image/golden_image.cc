// SPDX-License-Identifier: Apache-2.0
// Images that earlier versions wrote stay readable, what is written today is still the same, and doc/image-format.md
// describes it.
//
//   golden_image GOLDEN_DIRECTORY FORMAT_DOCUMENT               runs the tests
//   golden_image GOLDEN_DIRECTORY FORMAT_DOCUMENT --document    rewrites the document's tables after a record changed
//   golden_image GOLDEN_DIRECTORY FORMAT_DOCUMENT --regenerate  rewrites the current version's images and their texts
//
// vN-*.img is an image of format version N, vN-*.txt its text view (or the error that reading it gives). Files of past
// versions are never rewritten.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "image/document.h"
#include "image/early_chunks.h"
#include "image/format.h"
#include "image/sample_image.h"
#include "image/verify.h"
#include "image/view.h"
#include "resource/object_table.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

constexpr auto kRecords = record_registry<sample::LeafRecord, sample::AllRecord, sample::NoteRecord>();
constexpr std::array kObjectNames{EnumName{sample::kLeafObject, "leaf"}};
constexpr std::string_view kBegin = "<!-- record tables: written by `golden_image --document` -->\n";
constexpr std::string_view kEnd = "<!-- end of record tables -->\n";

struct Paths {
  std::string golden;
  std::string document;
};
Paths paths;  // set once by main

std::string read_text(const std::string& path) {
  auto text = read_file(AT_FDCWD, path);
  return text ? std::move(*text) : std::string();
}

void write_text(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

std::string view_text(const std::string& path) {
  std::string text;
  auto append = [&](std::string_view part) { text += part; };
  const auto result = inspect_image(path, {.records = kRecords, .object_names = kObjectNames}, append);
  // Without the directory, which differs from machine to machine.
  if (!result) return "error " + std::string(errc_info(result.error().code()).name) + "\n";
  return text;
}

// Half of the pages are those of v1-none.img.
Result<void> write_incremental(const std::string& directory) {
  const ImageReader parent = STASIS_TRY(ImageReader::open(directory + "/v1-none.img", {}));
  ImageWriter writer =
      STASIS_TRY(ImageWriter::create(directory + "/v1-incremental.img", {.durability = Durability::kFast}));
  EnvironmentRecord environment = sample::environment();
  environment.parent_image = parent.image_hash();
  environment.parent_path = "v1-none.img";
  STASIS_TRY(writer.write(environment));
  STASIS_TRY(writer.end_structure());
  const ChunkInfo& chunk = parent.chunks().front();
  STASIS_TRY(writer.inherit(ObjRef(4), chunk.runs, chunk.object));
  const std::vector<std::byte> page(environment.page_size, std::byte{7});
  const PageRun run{std::uint64_t{1} << 40, page.size()};
  STASIS_TRY(writer.add_chunk(ObjRef(4), std::span(&run, 1), page));
  return writer.publish();
}

// The images of the current version.
Result<void> write_image(const std::string& path, Codec codec) {
  ImageWriter writer = STASIS_TRY(ImageWriter::create(path, {.codec = codec, .durability = Durability::kFast}));
  STASIS_TRY(sample::write_sample(writer));
  return writer.publish();
}

// Room for the structure that is not used up, a chunk that was written before it, and one that was given up.
Result<void> write_early(const std::string& path) {
  ImageWriter writer = STASIS_TRY(ImageWriter::create(path, {.durability = Durability::kFast}));
  EarlyChunks early(writer);
  STASIS_TRY(early.reserve_structure(std::uint64_t{16} << 10));
  const std::array runs{PageRun{0x30000, sample::kSamplePage}, PageRun{0x40000, sample::kSamplePage}};
  const ChunkSlot kept = STASIS_TRY(early.reserve(runs));
  STASIS_TRY(pwrite_full(kept.fd, sample::pages(2, 3), static_cast<off_t>(kept.offset)));
  const ChunkSlot given_up = STASIS_TRY(early.reserve(runs));
  STASIS_TRY(sample::write_sample(writer));
  STASIS_TRY(early.finish(kept, ObjRef(1)));
  STASIS_TRY(early.drop(given_up));
  return writer.publish();
}

Result<void> write_aborted(const std::string& path) {
  const UniqueFd fd = STASIS_TRY(open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  ImageWriter writer = STASIS_TRY(ImageWriter::to_stream(fd.get(), {}));
  STASIS_TRY(sample::write_sample(writer));
  writer.abort(Error(Errc::kUnsupportedObject, "fd 5 of pid 12 is a camera"));
  return {};
}

Result<void> write_all(const std::string& directory) {
  const std::string prefix = directory + "/v" + std::to_string(kImageVersion) + "-";
  for (const auto codec : enum_names(Codec{})) {
    if (codec.value == Codec::kParent) continue;
    STASIS_TRY(write_image(prefix + std::string(codec.name) + ".img", codec.value));
  }
  STASIS_TRY(write_incremental(directory));
  STASIS_TRY(write_early(prefix + "early.img"));
  return write_aborted(prefix + "aborted.img");
}

// Tables of every record there is.
std::string all_tables() {
  std::vector<RecordInfo> records(framing_records().begin(), framing_records().end());
  records.insert(records.end(), resource_records().begin(), resource_records().end());
  return document_records(records);
}

std::vector<std::string> golden_images() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(paths.golden)) {
    if (entry.path().extension() == ".img") names.push_back(entry.path().stem());
  }
  std::ranges::sort(names);
  return names;
}

TEST(GoldenImage, EveryVersionIsReadAsItWasWritten) {
  const auto names = golden_images();
  for (std::uint32_t version = 1; version <= kImageVersion; ++version) {
    const std::string prefix = "v" + std::to_string(version) + "-";
    EXPECT_TRUE(std::ranges::any_of(names, [&](const std::string& name) { return name.starts_with(prefix); }))
        << "no golden image of version " << version;
  }
  for (const std::string& name : names) {
    const std::string expected = read_text(paths.golden + "/" + name + ".txt");
    EXPECT_FALSE(expected.empty()) << name;
    EXPECT_EQ(view_text(paths.golden + "/" + name + ".img"), expected) << name;
    const auto verified = verify_image(paths.golden + "/" + name + ".img", {.known = kRecords});
    EXPECT_EQ(verified.has_value(), !expected.starts_with("error ")) << name;
  }
}

TEST(GoldenImage, TheWriterStillWritesTheSameBytes) {
  const sample::ScratchDir dir;
  ASSERT_TRUE(write_all(dir.path()));
  // Compressed payloads may differ with the library's version.
  for (const char* name : {"v1-none.img", "v1-incremental.img", "v1-aborted.img"}) {
    EXPECT_EQ(sample::file_bytes(dir / name), sample::file_bytes(paths.golden + "/" + name))
        << name
        << ": the format changed. A new field or record is no new version, but then the sample must not change.";
  }
}

// The generated part of the document.
std::string documented_tables() {
  const std::string document = read_text(paths.document);
  const std::size_t begin = document.find(kBegin);
  const std::size_t end = document.find(kEnd);
  if (begin == std::string::npos || end == std::string::npos) return {};
  return document.substr(begin + kBegin.size(), end - begin - kBegin.size());
}

TEST(FormatDocument, FramingTablesAreThoseOfTheSchema) {
  EXPECT_TRUE(documented_tables().starts_with(document_records(framing_records())));
}

TEST(FormatDocument, EngineTablesAreThoseOfTheSchema) {
  EXPECT_EQ(documented_tables(), all_tables())
      << "a record changed: build/tests/image/golden_image tests/image/golden doc/image-format.md --document";
}

int write_document() {
  std::string document = read_text(paths.document);
  const std::size_t begin = document.find(kBegin);
  const std::size_t end = document.find(kEnd);
  if (begin == std::string::npos || end == std::string::npos) {
    std::cerr << paths.document << " has no place for the tables\n";
    return 1;
  }
  document.replace(begin + kBegin.size(), end - begin - kBegin.size(), all_tables());
  write_text(paths.document, document);
  return 0;
}

int regenerate() {
  if (auto written = write_all(paths.golden); !written) {
    std::cerr << written.error().to_string() << '\n';
    return 1;
  }
  const std::string prefix = "v" + std::to_string(kImageVersion) + "-";
  for (const std::string& name : golden_images()) {
    if (!name.starts_with(prefix)) continue;
    write_text(paths.golden + "/" + name + ".txt", view_text(paths.golden + "/" + name + ".img"));
  }
  return 0;
}

}  // namespace
}  // namespace stasis

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc < 3) {
    std::cerr << "usage: golden_image GOLDEN_DIRECTORY FORMAT_DOCUMENT [--document|--regenerate]\n";
    return 2;
  }
  stasis::paths = {argv[1], argv[2]};
  const std::string mode = argc > 3 ? argv[3] : "";
  if (mode == "--regenerate") return stasis::regenerate();
  if (mode == "--document") return stasis::write_document();
  return RUN_ALL_TESTS();
}
