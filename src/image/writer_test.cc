// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <csignal>
#include <thread>

#include "image/format.h"
#include "image/sample_image.h"
#include "image/verify.h"

namespace stasis {
namespace {

using sample::ScratchDir;
const WriterOptions kFast{.durability = Durability::kFast};

WriterOptions named() { return {.durability = Durability::kFast, .staging = Staging::kNamed}; }

void write_text(const std::string& path, std::string_view text) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  ASSERT_TRUE(write_full(fd.get(), std::as_bytes(std::span(text))));
}

Result<void> begin_pages(ImageWriter& writer) {
  STASIS_TRY(writer.write(sample::environment()));
  return writer.end_structure();
}

// ---- publication ----------------------------------------------------------------------------------------------------

class EveryStaging : public testing::TestWithParam<Staging> {
 protected:
  WriterOptions options() const { return {.durability = Durability::kFast, .staging = GetParam()}; }
};
INSTANTIATE_TEST_SUITE_P(Image, EveryStaging, testing::Values(Staging::kAuto, Staging::kNamed));

TEST_P(EveryStaging, NothingIsSeenBeforePublicationAndOnlyTheImageAfter) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", options());
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  struct stat info{};
  EXPECT_NE(::stat((dir / "x.img").c_str(), &info), 0);
  ASSERT_TRUE(writer->publish());
  ASSERT_EQ(::stat((dir / "x.img").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(dir.entries(), 1u);
  EXPECT_TRUE(verify_image(dir / "x.img", {}));
}

TEST_P(EveryStaging, AWriterThatIsDroppedLeavesNothing) {
  const ScratchDir dir;
  {
    auto writer = ImageWriter::create(dir / "x.img", options());
    ASSERT_TRUE(writer);
    ASSERT_TRUE(sample::write_sample(*writer));
  }
  EXPECT_EQ(dir.entries(), 0u);
}

TEST_P(EveryStaging, AnAbortedFileLeavesNothingAndTheOldImageStays) {
  const ScratchDir dir;
  write_text(dir / "x.img", "old");
  auto writer = ImageWriter::create(dir / "x.img", options());
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  writer->abort(Error(Errc::kTimeout, "too slow"));
  EXPECT_EQ(dir.entries(), 1u);
  EXPECT_EQ(*read_file(AT_FDCWD, dir / "x.img"), "old");
  EXPECT_FALSE(writer->publish());
}

TEST_P(EveryStaging, AnOldImageIsReplacedOnlyIfAllowed) {
  const ScratchDir dir;
  write_text(dir / "x.img", "old");
  WriterOptions refusing = options();
  refusing.existing = Existing::kRefuse;
  const auto refused = ImageWriter::create(dir / "x.img", refusing);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kOutputExists);

  auto writer = ImageWriter::create(dir / "x.img", options());
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_TRUE(writer->publish());
  EXPECT_EQ(dir.entries(), 1u);
  EXPECT_TRUE(verify_image(dir / "x.img", {}));
}

TEST_P(EveryStaging, ANameTakenMeanwhileIsRefusedAtPublication) {
  const ScratchDir dir;
  WriterOptions refusing = options();
  refusing.existing = Existing::kRefuse;
  auto writer = ImageWriter::create(dir / "x.img", refusing);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  write_text(dir / "x.img", "somebody else's");
  const auto published = writer->publish();
  ASSERT_FALSE(published);
  EXPECT_EQ(published.error().code(), Errc::kOutputExists);
  EXPECT_EQ(dir.entries(), 1u);
  EXPECT_EQ(*read_file(AT_FDCWD, dir / "x.img"), "somebody else's");
}

TEST_P(EveryStaging, OnlyRegularFilesAreReplaced) {
  const ScratchDir dir;
  ASSERT_EQ(::mkdir((dir / "directory").c_str(), 0700), 0);
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  write_text(dir / "file", "x");
  ASSERT_EQ(::symlink("file", (dir / "link").c_str()), 0);
  ASSERT_EQ(::symlink("nowhere", (dir / "dangling").c_str()), 0);
  const std::size_t before = dir.entries();
  for (const char* name : {"directory", "fifo", "link", "dangling"}) {
    const auto refused = ImageWriter::create(dir / name, options());
    ASSERT_FALSE(refused) << name;
    EXPECT_EQ(refused.error().code(), Errc::kOutputExists) << name;
  }
  // What was free at the start and is a directory now.
  auto writer = ImageWriter::create(dir / "late", options());
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_EQ(::mkdir((dir / "late").c_str(), 0700), 0);
  EXPECT_FALSE(writer->publish());
  EXPECT_EQ(dir.entries(), before + 1);
}

TEST(ImageWriter, NamesThatAreNoFileAreRefused) {
  for (const char* path : {"", "/", "/tmp/", ".", "/tmp/.."}) {
    const auto refused = ImageWriter::create(path, kFast);
    ASSERT_FALSE(refused) << path;
    EXPECT_EQ(refused.error().code(), Errc::kInvalidArgument) << path;
  }
  EXPECT_FALSE(ImageWriter::create("/nonexistent-directory/x.img", kFast));
}

TEST(ImageWriter, DurablePublicationWorks) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_TRUE(writer->publish());
  EXPECT_TRUE(verify_image(dir / "x.img", {}));
}

TEST(ImageWriter, ANamedStagingFileCanBeOpenedByPath) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", named());
  ASSERT_TRUE(writer);
  struct stat info{};
  ASSERT_EQ(::stat(writer->staging_path().c_str(), &info), 0) << writer->staging_path();
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST(ImageWriter, TheNameMayBeRelativeAndLong) {
  const ScratchDir dir;
  const std::string name(255, 'n');
  auto writer = ImageWriter::create(dir / name, named());
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_TRUE(writer->publish());
  EXPECT_TRUE(verify_image(dir / name, {}));
}

// ---- order of calls -------------------------------------------------------------------------------------------------

TEST(ImageWriter, CallsOutOfOrderAreRefused) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  const sample::LeafRecord leaf{"x", ObjRef(1)};
  const std::array runs{PageRun{0, 4096}};
  const auto page = sample::pages(1, 0);
  EXPECT_FALSE(writer->write(leaf)) << "the environment comes first";
  EXPECT_FALSE(writer->begin_object(ObjRef(1), sample::kLeafObject));
  EXPECT_FALSE(writer->end_structure());
  ASSERT_TRUE(writer->write(sample::environment()));
  EXPECT_FALSE(writer->write(sample::environment())) << "and once";
  EXPECT_FALSE(writer->begin_object(ObjRef(), sample::kLeafObject));
  EXPECT_FALSE(writer->begin_object(ObjRef(-1), sample::kLeafObject));
  EXPECT_FALSE(writer->write(TrailerRecord{})) << "framing is the writer's";
  EXPECT_FALSE(writer->add_chunk(ObjRef(1), runs, page));
  EXPECT_FALSE(writer->publish());
  ASSERT_TRUE(writer->end_structure());
  EXPECT_FALSE(writer->write(leaf));
  EXPECT_FALSE(writer->end_structure());
  ASSERT_TRUE(writer->add_chunk(ObjRef(1), runs, page));
  ASSERT_TRUE(writer->publish()) << "refused calls do no harm";
  EXPECT_FALSE(writer->publish());
  EXPECT_FALSE(writer->add_chunk(ObjRef(1), runs, page));
  EXPECT_TRUE(verify_image(dir / "x.img", {}));
}

TEST(ImageWriter, RecordsCopiedFromAnImageMakeTheSameImage) {
  const ScratchDir dir;
  auto original = ImageWriter::create(dir / "a.img", kFast);
  ASSERT_TRUE(original && sample::write_sample(*original) && original->publish());
  const auto reader = ImageReader::open(dir / "a.img", {});
  ASSERT_TRUE(reader);
  auto copy = ImageWriter::create(dir / "b.img", kFast);
  ASSERT_TRUE(copy);
  for (std::size_t i = 0; i < reader->record_count(); ++i) EXPECT_TRUE(copy->copy(reader->record(i))) << i;
  EXPECT_FALSE(copy->copy({.type = TrailerRecord::kType, .payload = {}})) << "framing is the writer's";
  EXPECT_FALSE(copy->copy({.type = RecordType::kObject, .payload = {}})) << "an object needs a number";
  ASSERT_TRUE(copy->end_structure());
  for (std::size_t i = 0; i < reader->chunks().size(); ++i) {
    const ChunkInfo& chunk = reader->chunks()[i];
    std::vector<std::byte> pages(chunk.raw_size);
    ASSERT_TRUE(reader->read_chunk(i, pages));
    ASSERT_TRUE(copy->add_chunk(chunk.object, chunk.runs, pages));
  }
  ASSERT_TRUE(copy->publish());
  EXPECT_EQ(copy->image_hash(), reader->image_hash());
}

TEST(ImageWriter, ChunksThatNoReaderTakesAreRefused) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  const auto page = sample::pages(2, 0);
  const auto refused = [&](std::vector<PageRun> runs, std::span<const std::byte> payload, ObjRef object = ObjRef(1)) {
    const auto result = writer->add_chunk(object, runs, payload);
    return !result && result.error().code() == Errc::kInvalidArgument;
  };
  EXPECT_TRUE(refused({}, {}));
  EXPECT_TRUE(refused({{0, 4096}}, page)) << "sizes differ";
  EXPECT_TRUE(refused({{1, 8192}}, page)) << "not aligned";
  EXPECT_TRUE(refused({{0, 4095}, {4096, 4097}}, page));
  EXPECT_TRUE(refused({{4096, 4096}, {0, 4096}}, page)) << "out of order";
  EXPECT_TRUE(refused({{0, 8192}, {4096, 0}}, page)) << "empty run";
  EXPECT_TRUE(refused({{0, 4096}, {0, 4096}}, page)) << "overlap";
  EXPECT_TRUE(refused({{0xfffffffffffff000, 8192}}, page)) << "wraps around";
  EXPECT_TRUE(refused({{0, 8192}}, page, ObjRef(0)));
  EXPECT_FALSE(writer->reserve_chunk(ObjRef(1), std::array{PageRun{0, kMaxChunkBytes + 4096}}));
  ASSERT_TRUE(writer->publish());
  const auto report = verify_image(dir / "x.img", {});
  ASSERT_TRUE(report);
  EXPECT_EQ(report->chunks, 0u);
}

// ---- slots ----------------------------------------------------------------------------------------------------------

TEST(ImageWriter, SomebodyElseMayWriteAPayload) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  ASSERT_TRUE(writer->seekable());
  const auto first = sample::pages(3, 5);
  const auto second = sample::pages(1, 6);
  const auto a = writer->reserve_chunk(ObjRef(1), std::array{PageRun{0x1000, 0x1000}, PageRun{0x8000, 0x2000}});
  const auto b = writer->reserve_chunk(ObjRef(2), std::array{PageRun{0, 0x1000}});
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->offset % kPayloadAlignment, 0u);
  EXPECT_EQ(a->length, first.size());
  EXPECT_EQ(b->offset % kPayloadAlignment, 0u);
  ASSERT_TRUE(pwrite_full(b->fd, second, static_cast<off_t>(b->offset)));
  ASSERT_TRUE(writer->finish_chunk(*b, hash_bytes(second)));
  ASSERT_TRUE(pwrite_full(a->fd, first, static_cast<off_t>(a->offset)));
  ASSERT_TRUE(writer->finish_chunk(*a));
  EXPECT_FALSE(writer->finish_chunk(*a)) << "once is enough";
  ASSERT_TRUE(writer->publish());

  auto reader = ImageReader::open(dir / "x.img", {});
  ASSERT_TRUE(reader);
  ASSERT_EQ(reader->chunks().size(), 2u);
  std::vector<std::byte> out(first.size());
  ASSERT_TRUE(reader->read_chunk(0, out));
  EXPECT_EQ(out, first);
  EXPECT_TRUE(reader->verify_chunk(1));
  // Direct access, the way a task would read its own pages.
  std::vector<std::byte> direct(second.size());
  ASSERT_TRUE(pread_full(reader->fd(), direct, static_cast<off_t>(reader->chunks()[1].payload_offset)));
  EXPECT_EQ(direct, second);
}

TEST(ImageWriter, AnOpenSlotPreventsPublication) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  ASSERT_TRUE(writer->reserve_chunk(ObjRef(1), std::array{PageRun{0, 4096}}));
  EXPECT_FALSE(writer->publish());
  EXPECT_EQ(dir.entries(), 0u);
}

TEST(ImageWriter, APayloadThatWasNeverWrittenIsNotTaken) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  const auto slot = writer->reserve_chunk(ObjRef(1), std::array{PageRun{0, 4096}});
  ASSERT_TRUE(slot);
  const auto finished = writer->finish_chunk(*slot);
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().code(), Errc::kImageTruncated);
}

TEST(ImageWriter, AWrongGivenHashIsFoundByTheReader) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  const auto slot = writer->reserve_chunk(ObjRef(1), std::array{PageRun{0, 4096}});
  ASSERT_TRUE(slot);
  ASSERT_TRUE(pwrite_full(slot->fd, sample::pages(1, 1), static_cast<off_t>(slot->offset)));
  ASSERT_TRUE(writer->finish_chunk(*slot, ImageHash{}));
  ASSERT_TRUE(writer->publish());
  const auto result = verify_image(dir / "x.img", {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kImageChecksum);
}

// ---- chunks ---------------------------------------------------------------------------------------------------------

TEST(ImageWriter, SeveralThreadsAddChunks) {
  const ScratchDir dir;
  std::uint64_t calls = 0;
  auto writer = ImageWriter::create(
      dir / "x.img",
      {.codec = Codec::kLz4, .durability = Durability::kFast, .progress = [&](const ImageProgress&) { ++calls; }});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  constexpr std::uint32_t kThreads = 4;
  constexpr std::uint32_t kEach = 16;
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint32_t i = 0; i < kEach; ++i) {
          const std::uint32_t seed = t * kEach + i;
          const std::array runs{PageRun{std::uint64_t{seed} << 20, 3 * 4096}};
          EXPECT_TRUE(writer->add_chunk(ObjRef(1), runs, sample::pages(3, seed)));
        }
      });
    }
  }
  EXPECT_EQ(calls, kThreads * kEach);
  ASSERT_TRUE(writer->publish());
  auto reader = ImageReader::open(dir / "x.img", {});
  ASSERT_TRUE(reader) << reader.error().to_string();
  ASSERT_EQ(reader->chunks().size(), kThreads * kEach);
  EXPECT_EQ(reader->image_hash(), writer->image_hash());
  std::vector<bool> seen(kThreads * kEach);
  std::vector<std::byte> buffer;
  while (const auto chunk = reader->next_chunk(buffer)) {
    if (!*chunk) break;
    const auto seed = static_cast<std::uint32_t>((*chunk)->runs.at(0).start >> 20);
    EXPECT_EQ(buffer, sample::pages(3, seed));
    seen.at(seed) = true;
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), kThreads * kEach);
  EXPECT_EQ(reader->progress().chunks, kThreads * kEach);
}

TEST(ImageWriter, ChunksThatDoNotShrinkAreKeptRaw) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.codec = Codec::kZstd, .durability = Durability::kFast});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  std::vector<std::byte> random(4096);
  std::uint64_t state = 88172645463325252u;
  for (std::byte& byte : random) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    byte = static_cast<std::byte>(state >> 32);
  }
  ASSERT_TRUE(writer->add_chunk(ObjRef(1), std::array{PageRun{0, 4096}}, random));
  ASSERT_TRUE(writer->add_chunk(ObjRef(1), std::array{PageRun{4096, 4096}}, std::vector<std::byte>(4096)));
  ASSERT_TRUE(writer->publish());
  const auto reader = ImageReader::open(dir / "x.img", {});
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->chunks()[0].codec, Codec::kNone);
  EXPECT_EQ(reader->chunks()[1].codec, Codec::kZstd);
  EXPECT_LT(reader->chunks()[1].stored_size, 100u);
}

TEST(ImageWriter, PagesOfZerosAreDroppedOnRequestOnly) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(begin_pages(*writer));
  // Pages: data, zero, data, data | zero | data, zero; the last byte of a page counts too.
  auto payload = sample::pages(7, 3);
  for (const std::size_t page : {1, 4, 6}) {
    std::fill_n(payload.begin() + static_cast<std::ptrdiff_t>(page * 4096), 4096, std::byte{0});
  }
  const std::array runs{PageRun{0, 4 * 4096}, PageRun{0x10000, 4096}, PageRun{0x20000, 2 * 4096}};
  ASSERT_TRUE(writer->add_chunk(ObjRef(1), runs, payload, ZeroPages::kDrop));
  ASSERT_TRUE(writer->add_chunk(ObjRef(2), runs, payload, ZeroPages::kKeep));
  ASSERT_TRUE(
      writer->add_chunk(ObjRef(3), std::array{PageRun{0, 4096}}, std::vector<std::byte>(4096), ZeroPages::kDrop));
  std::vector<std::byte> last_byte(4096);
  last_byte.back() = std::byte{1};
  ASSERT_TRUE(writer->add_chunk(ObjRef(4), std::array{PageRun{0, 4096}}, last_byte, ZeroPages::kDrop));
  EXPECT_FALSE(writer->add_chunk(ObjRef(5), std::array{PageRun{0, 8192}}, last_byte, ZeroPages::kDrop));
  ASSERT_TRUE(writer->publish());
  const auto reader = ImageReader::open(dir / "x.img", {});
  ASSERT_TRUE(reader);
  ASSERT_EQ(reader->chunks().size(), 3u) << "nothing is left of object 3";
  EXPECT_EQ(reader->chunks()[0].runs, (std::vector<PageRun>{{0, 4096}, {8192, 8192}, {0x20000, 4096}}));
  EXPECT_EQ(reader->chunks()[1].runs, std::vector<PageRun>(runs.begin(), runs.end()));
  EXPECT_EQ(reader->chunks()[2].object, ObjRef(4));
  std::vector<std::byte> out(4 * 4096);
  ASSERT_TRUE(reader->read_chunk(0, out));
  for (const auto& [to, from] : {std::pair{0, 0}, {1, 2}, {2, 3}, {3, 5}}) {
    EXPECT_TRUE(std::equal(out.begin() + to * 4096, out.begin() + (to + 1) * 4096, payload.begin() + from * 4096));
  }
}

// ---- failing media --------------------------------------------------------------------------------------------------

TEST(ImageWriter, AFullStreamSaysSoAndTheErrorSticks) {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full);
  auto writer = ImageWriter::to_stream(full.get(), {});
  ASSERT_TRUE(writer);
  EXPECT_FALSE(writer->seekable());
  EXPECT_FALSE(writer->reserve_chunk(ObjRef(1), std::array{PageRun{0, 4096}}));
  ASSERT_TRUE(writer->write(sample::environment())) << "kept in memory";
  const auto ended = writer->end_structure();
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code(), Errc::kNoSpace);
  const auto added = writer->add_chunk(ObjRef(1), std::array{PageRun{0, 4096}}, sample::pages(1, 1));
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code(), Errc::kNoSpace);
  const auto published = writer->publish();
  ASSERT_FALSE(published);
  EXPECT_EQ(published.error().code(), Errc::kNoSpace);
}

// The file may grow to `bytes` and no further while this lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    old_action_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_action_);
  }

 private:
  rlimit old_{};
  void (*old_action_)(int) = nullptr;
};

TEST(ImageWriter, AFileThatCannotGrowIsNeverPublished) {
  const ScratchDir dir;
  const auto whole = [&]() -> Result<void> {
    ImageWriter writer = STASIS_TRY(ImageWriter::create(dir / "x.img", kFast));
    STASIS_TRY(sample::write_sample(writer));
    return writer.publish();
  };
  ASSERT_TRUE(whole());
  const std::size_t size = sample::file_bytes(dir / "x.img").size();
  ASSERT_GT(size, 4096u);
  ASSERT_EQ(::unlink((dir / "x.img").c_str()), 0);
  // Ends inside the structure, a payload, a record behind a payload, the index, the last byte.
  for (const std::size_t limit : {std::size_t{0}, std::size_t{100}, std::size_t{5000}, size - 600, size - 1}) {
    const FileSizeLimit scoped(limit);
    const auto result = whole();
    EXPECT_FALSE(result) << limit;
    EXPECT_EQ(dir.entries(), 0u) << limit;
  }
  EXPECT_TRUE(whole());
}

// ---- aborted streams ------------------------------------------------------------------------------------------------

// What comes out of a pipe when `write` has written into a stream.
std::vector<std::byte> through_pipe(const std::function<void(ImageWriter&)>& write) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return {};
  const UniqueFd in(ends[0]);
  UniqueFd out(ends[1]);
  std::jthread thread([&] {
    auto writer = ImageWriter::to_stream(out.get(), {});
    if (writer) write(*writer);
    out.reset();
  });
  const auto text = read_fd(in.get());
  if (!text) return {};
  const auto bytes = std::as_bytes(std::span(*text));
  return {bytes.begin(), bytes.end()};
}

TEST(ImageStream, StreamAndFileHoldTheSameBytes) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", kFast);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_TRUE(writer->publish());
  const auto streamed = through_pipe([](ImageWriter& stream) {
    EXPECT_TRUE(sample::write_sample(stream));
    EXPECT_TRUE(stream.publish());
  });
  EXPECT_EQ(streamed, sample::file_bytes(dir / "x.img"));
}

TEST(ImageStream, AnAbortReachesTheReaderWithItsText) {
  const auto reason = Error(Errc::kUnsupportedObject, "fd 5 of pid 12 is a camera").with_help("close it");
  const auto early = through_pipe([&](ImageWriter& writer) { writer.abort(reason); });
  const auto in_structure = through_pipe([&](ImageWriter& writer) {
    EXPECT_TRUE(writer.write(sample::environment()));
    writer.abort(reason);
  });
  const auto in_pages = through_pipe([&](ImageWriter& writer) {
    EXPECT_TRUE(sample::write_sample(writer));
    writer.abort(reason);
    EXPECT_FALSE(writer.publish());
  });
  for (const auto& image : {early, in_structure, in_pages}) {
    for (const auto access : {ImageReader::Access::kStream, ImageReader::Access::kFile}) {
      auto reader = ImageReader::from_bytes(image, access, {});
      const auto result = reader ? reader->finish() : Result<void>(reader.error());
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error().code(), Errc::kImageAborted);
      EXPECT_EQ(result.error().message(),
                "the checkpoint that wrote this image failed: fd 5 of pid 12 is a camera (close it)");
    }
  }
}

TEST(ImageStream, AStreamThatJustStopsIsTruncated) {
  const auto image = through_pipe([](ImageWriter& writer) { EXPECT_TRUE(sample::write_sample(writer)); });
  auto reader = ImageReader::from_bytes(image, ImageReader::Access::kStream, {});
  ASSERT_TRUE(reader);
  const auto result = reader->finish();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kImageTruncated);
}

}  // namespace
}  // namespace stasis
