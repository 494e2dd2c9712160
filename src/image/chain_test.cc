// SPDX-License-Identifier: Apache-2.0
// Images that hold only what differs from a parent.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <map>

#include "image/merge.h"
#include "image/page_index.h"
#include "image/page_runs.h"
#include "image/sample_image.h"
#include "image/verify.h"

namespace stasis {
namespace {

constexpr std::uint64_t kPage = sample::kSamplePage;
const ObjRef kMemory(3);

std::vector<std::byte> pages_of(std::string_view letters) {
  std::vector<std::byte> bytes;
  for (const char letter : letters) bytes.insert(bytes.end(), kPage, static_cast<std::byte>(letter));
  return bytes;
}

std::string letters_of(std::span<const std::byte> bytes) {
  std::string letters;
  for (std::size_t i = 0; i < bytes.size(); i += kPage) letters += static_cast<char>(bytes[i]);
  return letters;
}

// What an image has of its own, and what it takes from its parent; pages are counted from 0.
struct Contents {
  std::vector<std::pair<std::uint64_t, std::string>> own;
  std::vector<PageRun> inherited;  // in pages
  ObjRef object = kMemory;
  ObjRef source = kMemory;
  Codec codec = Codec::kNone;
};

class ImageChain : public ::testing::Test {
 protected:
  std::string at(const std::string& name) const { return dir_ / name.c_str(); }

  Result<void> write(const std::string& name, const Contents& contents, const std::string& parent = "") {
    ImageWriter writer =
        STASIS_TRY(ImageWriter::create(at(name), {.codec = contents.codec, .durability = Durability::kFast}));
    EnvironmentRecord environment = sample::environment();
    if (!parent.empty()) {
      const ImageReader reader = STASIS_TRY(ImageReader::open(at(parent), {}));
      environment.parent_image = reader.image_hash();
      environment.parent_path = parent;
    }
    STASIS_TRY(writer.write(environment));
    STASIS_TRY(writer.end_structure());
    for (const auto& [start, letters] : contents.own) {
      const PageRun run{start * kPage, letters.size() * kPage};
      STASIS_TRY(writer.add_chunk(contents.object, std::span(&run, 1), pages_of(letters)));
    }
    std::vector<PageRun> runs;
    for (const PageRun& run : contents.inherited) runs.push_back({run.start * kPage, run.length * kPage});
    if (!runs.empty()) STASIS_TRY(writer.inherit(contents.object, runs, contents.source));
    return writer.publish();
  }

  // All pages of the object in order; "!" and the code where it can't be read.
  std::string read(const std::string& name, ObjRef object = kMemory) {
    const auto letters = [&]() -> Result<std::string> {
      ImageReader reader = STASIS_TRY(ImageReader::open(at(name), {}));
      STASIS_TRY(reader.open_parents(dir_.path()));
      const auto runs = STASIS_TRY(reader.page_runs(object));
      std::vector<std::byte> bytes(total_length(runs));
      STASIS_TRY(reader.read_pages(object, runs, bytes));
      return letters_of(bytes);
    }();
    return letters ? *letters : "!" + std::string(errc_info(letters.error().code()).name);
  }

  // The same by its chunks, in the order of the file, sorted by page.
  std::string read_chunks(const std::string& name) {
    const auto letters = [&]() -> Result<std::string> {
      ImageReader reader = STASIS_TRY(ImageReader::open(at(name), {}));
      STASIS_TRY(reader.open_parents(dir_.path()));
      std::map<std::uint64_t, char> found;
      std::vector<std::byte> buffer;
      while (const auto chunk = STASIS_TRY(reader.next_chunk(buffer))) {
        std::size_t offset = 0;
        for (const PageRun& run : chunk->runs) {
          for (std::uint64_t i = 0; i < run.length; i += kPage, offset += kPage) {
            found[run.start + i] = static_cast<char>(buffer[offset]);
          }
        }
      }
      std::string text;
      for (const auto& [address, letter] : found) text += letter;
      return text;
    }();
    return letters ? *letters : "!" + std::string(errc_info(letters.error().code()).name);
  }

  void make_three() {
    ASSERT_TRUE(write("one", {.own = {{0, "abcdefgh"}}}));
    ASSERT_TRUE(write("two", {.own = {{2, "CD"}}, .inherited = {{0, 2}, {4, 4}}}, "one"));
    ASSERT_TRUE(write("three", {.own = {{0, "X"}, {9, "Y"}}, .inherited = {{1, 2}, {4, 3}}}, "two"));
  }

  sample::ScratchDir dir_;
};

TEST_F(ImageChain, ReadsLikeAWholeImage) {
  make_three();
  EXPECT_EQ(read("one"), "abcdefgh");
  EXPECT_EQ(read("two"), "abCDefgh");
  EXPECT_EQ(read("three"), "XbCefgY");
  EXPECT_EQ(read_chunks("three"), "XbCefgY");
}

TEST_F(ImageChain, ReadsThroughCompressionAndOtherObjectNumbers) {
  ASSERT_TRUE(write("one", {.own = {{0, "abcdefgh"}}, .object = ObjRef(9), .codec = Codec::kZstd}));
  ASSERT_TRUE(write(
      "two", {.own = {{2, "CD"}}, .inherited = {{0, 2}, {4, 4}}, .source = ObjRef(9), .codec = Codec::kLz4}, "one"));
  EXPECT_EQ(read("two"), "abCDefgh");
  EXPECT_EQ(read_chunks("two"), "abCDefgh");
}

TEST_F(ImageChain, FewPagesOfALargeChunkAreReadAndVerified) {
  std::string many(600, 'm');
  many[100] = 'x';
  ASSERT_TRUE(write("one", {.own = {{0, many}}}));
  ASSERT_TRUE(write("two", {.own = {{0, "a"}}, .inherited = {{100, 1}}}, "one"));
  EXPECT_EQ(read("two"), "ax");
  // A byte that is not wanted is damaged: the chunk is not to be trusted.
  const auto reader = ImageReader::open(at("one"), {});
  ASSERT_TRUE(reader);
  const std::uint64_t place = reader->chunks()[0].payload_offset + 300 * kPage;
  const UniqueFd fd(::open(at("one").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::pwrite(fd.get(), "?", 1, static_cast<off_t>(place)), 1);
  EXPECT_EQ(read("two"), "!image_checksum");
}

TEST_F(ImageChain, IsVerifiedToItsEnd) {
  make_three();
  const auto report = verify_image(at("three"), {.threads = 1});
  ASSERT_TRUE(report) << report.error().message();
  ASSERT_EQ(report->parents.size(), 2u);
  EXPECT_EQ(report->parents[0].path, at("two"));
  EXPECT_EQ(report->parents[1].path, at("one"));
  const auto reader = ImageReader::open(at("one"), {});
  ASSERT_TRUE(reader);
  const UniqueFd fd(::open(at("one").c_str(), O_WRONLY | O_CLOEXEC));
  // A page that nobody has inherited.
  ASSERT_EQ(::pwrite(fd.get(), "?", 1, static_cast<off_t>(reader->chunks()[0].payload_offset + 2 * kPage)), 1);
  const auto damaged = verify_image(at("three"), {.threads = 1});
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().code(), Errc::kParentImage);
}

TEST_F(ImageChain, IsFoldedIntoOne) {
  make_three();
  const auto report = merge_image(at("three"), at("whole"), {});
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_EQ(report->images, 3u);
  for (const char* const name : {"one", "two", "three"}) std::filesystem::remove(at(name));
  EXPECT_EQ(read("whole"), "XbCefgY");
  const auto whole = ImageReader::open(at("whole"), {});
  ASSERT_TRUE(whole);
  EXPECT_FALSE(whole->environment().parent_image.has_value());
  // Onto itself.
  ASSERT_TRUE(merge_image(at("whole"), at("whole"), {.codec = Codec::kLz4}));
  EXPECT_EQ(read("whole"), "XbCefgY");
}

TEST_F(ImageChain, AMissingOrAnotherParentIsRefused) {
  make_three();
  std::filesystem::rename(at("one"), at("kept"));
  EXPECT_EQ(read("three"), "!parent_image");
  // Another image under the name, and something that is none.
  ASSERT_TRUE(write("one", {.own = {{0, "abcdefgH"}}}));
  EXPECT_EQ(read("three"), "!parent_image");
  std::filesystem::remove(at("one"));
  std::filesystem::create_directory(at("one"));
  EXPECT_EQ(read("three"), "!parent_image");
  std::filesystem::remove(at("one"));
  std::filesystem::rename(at("kept"), at("one"));
  EXPECT_EQ(read("three"), "XbCefgY");
  EXPECT_EQ(verify_image(at("two"), {}).has_value(), true);
}

TEST_F(ImageChain, ItsImagesMayMoveTogether) {
  make_three();
  std::filesystem::create_directory(at("elsewhere"));
  for (const char* const name : {"one", "two", "three"}) {
    std::filesystem::rename(at(name), at(std::string("elsewhere/") + name));
  }
  ImageReader reader = std::move(*ImageReader::open(at("elsewhere/three"), {}));
  EXPECT_TRUE(reader.open_parents(at("elsewhere")));
}

TEST_F(ImageChain, WithoutItsParentsNoPageIsReadButTheRestIs) {
  make_three();
  const auto reader = ImageReader::open(at("two"), {});
  ASSERT_TRUE(reader);
  std::vector<std::byte> buffer(6 * kPage);
  const auto refused = reader->read_chunk(1, buffer);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kParentImage);
  EXPECT_FALSE(reader->verify_chunk(1));
  buffer.resize(2 * kPage);
  EXPECT_TRUE(reader->read_chunk(0, buffer));
}

TEST_F(ImageChain, IsReadFromAStreamToo) {
  make_three();
  const auto bytes = sample::file_bytes(at("three"));
  auto reader = ImageReader::from_bytes(bytes, ImageReader::Access::kStream, {});
  ASSERT_TRUE(reader);
  ASSERT_TRUE(reader->open_parents(dir_.path()));
  std::vector<std::byte> buffer;
  std::string letters;
  while (const auto chunk = *reader->next_chunk(buffer)) letters += letters_of(buffer);
  EXPECT_EQ(letters, "XYbCefg");
  // Without its parents it can still be checked to its own end.
  auto alone = ImageReader::from_bytes(bytes, ImageReader::Access::kStream, {});
  ASSERT_TRUE(alone);
  EXPECT_TRUE(alone->finish());
}

TEST_F(ImageChain, PagesThatTheParentDoesNotHaveAreRefused) {
  ASSERT_TRUE(write("one", {.own = {{0, "abcd"}}}));
  ASSERT_TRUE(write("behind", {.inherited = {{2, 4}}}, "one"));
  ASSERT_TRUE(write("other", {.inherited = {{0, 1}}, .source = ObjRef(8)}, "one"));
  for (const char* const name : {"behind", "other"}) {
    EXPECT_EQ(read(name), "!bad_image") << name;
    EXPECT_EQ(read_chunks(name), "!bad_image") << name;
    EXPECT_FALSE(verify_image(at(name), {})) << name;
    EXPECT_FALSE(merge_image(at(name), at("whole"), {})) << name;
  }
  EXPECT_FALSE(std::filesystem::exists(at("whole")));
}

TEST_F(ImageChain, NobodyInheritsWithoutAParent) {
  const auto refused = write("orphan", {.own = {{0, "a"}}, .inherited = {{1, 1}}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kInvalidArgument);
}

TEST_F(ImageChain, HasABoundedLength) {
  ASSERT_TRUE(write("0", {.own = {{0, "a"}}}));
  for (unsigned i = 1; i <= kMaxChain; ++i) {
    ASSERT_TRUE(write(std::to_string(i), {.inherited = {{0, 1}}}, std::to_string(i - 1)));
  }
  EXPECT_EQ(read(std::to_string(kMaxChain - 1)), "a");
  EXPECT_EQ(read(std::to_string(kMaxChain)), "!parent_image");
}

// No honest writer makes a circle, as an image's identity depends on its parent's. A name that leads to the image
// itself is one.
TEST_F(ImageChain, IsNoCircle) {
  make_three();
  std::filesystem::remove(at("one"));
  std::filesystem::create_hard_link(at("two"), at("one"));
  EXPECT_EQ(read("two"), "!parent_image");
}

TEST_F(ImageChain, SomebodyElsesParentIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root";
  make_three();
  ASSERT_EQ(::chown(at("three").c_str(), 61234, 61234), 0);
  EXPECT_EQ(read("three"), "!parent_image");
  ASSERT_EQ(::chown(at("two").c_str(), 61234, 61234), 0);
  EXPECT_EQ(read("three"), "!parent_image");
  ASSERT_EQ(::chown(at("one").c_str(), 61234, 61234), 0);
  EXPECT_EQ(read("three"), "XbCefgY");
}

TEST(PageRuns, AreCutAndJoined) {
  using Runs = std::vector<PageRun>;
  const Runs a{{0, 10}, {20, 10}, {40, 5}}, b{{5, 20}, {28, 1}, {44, 9}};
  EXPECT_EQ(intersect(a, b), (Runs{{5, 5}, {20, 5}, {28, 1}, {44, 1}}));
  EXPECT_EQ(subtract(a, b), (Runs{{0, 5}, {25, 3}, {29, 1}, {40, 4}}));
  EXPECT_EQ(subtract(a, {}), a);
  EXPECT_EQ(subtract({}, a), Runs{});
  EXPECT_EQ(subtract(a, a), Runs{});
  EXPECT_EQ(intersect(a, a), a);
  EXPECT_EQ(total_length(a), 25u);
  Runs joined;
  append(joined, {0, 5});
  append(joined, {5, 5});
  append(joined, {11, 1});
  EXPECT_EQ(joined, (Runs{{0, 10}, {11, 1}}));
}

TEST(PageIndexTest, RefusesPagesThatAreThereTwice) {
  const ChunkInfo first{.object = ObjRef(1), .raw_size = 2 * kPage, .runs = {{0, 2 * kPage}}};
  const ChunkInfo second{.object = ObjRef(1), .raw_size = kPage, .runs = {{kPage, kPage}}};
  const ChunkInfo other{.object = ObjRef(2), .raw_size = kPage, .runs = {{kPage, kPage}}};
  EXPECT_TRUE(PageIndex::make(std::vector{first, other}));
  const auto refused = PageIndex::make(std::vector{first, second});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kBadImage);
}

}  // namespace
}  // namespace stasis
