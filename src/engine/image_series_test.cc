// SPDX-License-Identifier: Apache-2.0
#include "engine/image_series.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/file.h"
#include "image/environment.h"
#include "image/format.h"
#include "stasis/image.h"

namespace stasis {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ImageSeriesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/series.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    file_ = directory_ + "/job";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // A file that begins as images do, put in the place of another one as a checkpoint does.
  void publish(const std::string& name, const std::string& text) {
    const std::string staging = directory_ + "/staging";
    const auto preamble = make_preamble();
    std::ofstream stream(staging, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(preamble.data()), static_cast<std::streamsize>(preamble.size()));
    stream << text;
    stream.close();
    ASSERT_EQ(std::rename(staging.c_str(), (directory_ + "/" + name).c_str()), 0);
  }
  std::string text_of(const std::string& name) const {
    const auto text = read_file(AT_FDCWD, directory_ + "/" + name);
    return text ? text->substr(kPreambleSize) : "(none)";
  }
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) found.insert(entry.path().filename());
    return found;
  }
  ImageSeries open(unsigned keep, bool chains = false) {
    auto series = ImageSeries::open(file_, {.keep = keep, .chains = chains});
    EXPECT_TRUE(series.has_value()) << (series ? "" : series.error().message());
    return std::move(*series);
  }
  void save(ImageSeries& series, const std::string& text) {
    ASSERT_TRUE(series.before_checkpoint().has_value());
    publish("job", text);
    series.after_checkpoint();
  }

  // A real image of so many pages, a difference to `parent` (empty: none), put in the place of the newest.
  void publish_image(const std::string& parent, std::size_t pages) {
    EnvironmentRecord environment = EnvironmentRecord::of_this_machine();
    if (!parent.empty()) {
      const auto fd = open_at(AT_FDCWD, parent, O_RDONLY);
      ASSERT_TRUE(fd);
      const auto reader = ImageReader::from_fd(fd->get(), {});
      ASSERT_TRUE(reader) << reader.error().message();
      environment.parent_image = reader->image_hash();
      environment.parent_path = parent.substr(directory_.size() + 1);
    }
    auto writer = ImageWriter::create(file_, {});
    ASSERT_TRUE(writer) << writer.error().message();
    ASSERT_TRUE(writer->write(environment));
    ASSERT_TRUE(writer->begin_object(ObjRef(1), ObjType(1)));
    ASSERT_TRUE(writer->end_structure());
    std::vector<std::byte> bytes(pages * 4096, std::byte{1});
    const PageRun run{.start = 4096, .length = bytes.size()};
    const auto added = writer->add_chunk(ObjRef(1), std::span(&run, 1), bytes);
    ASSERT_TRUE(added) << added.error().message();
    const auto published = writer->publish();
    ASSERT_TRUE(published) << published.error().message();
  }
  // Returns whether it is a difference.
  bool save_image(ImageSeries& series, std::size_t pages) {
    EXPECT_TRUE(series.before_checkpoint().has_value());
    const std::string parent = series.parent();
    publish_image(parent, pages);
    series.after_checkpoint();
    return !parent.empty();
  }

  std::string directory_, file_;
};

TEST_F(ImageSeriesTest, TheNewestHasTheNameAndTheOlderOnesCountUp) {
  ImageSeries series = open(3);
  for (const char* const text : {"a", "b", "c", "d"}) save(series, text);
  EXPECT_THAT(names(), ElementsAre(".job.lock", "job", "job.2", "job.3"));
  EXPECT_EQ(text_of("job"), "d");
  EXPECT_EQ(text_of("job.3"), "c");
  EXPECT_EQ(text_of("job.2"), "b");
  const auto candidates = series.candidates();
  ASSERT_TRUE(candidates.has_value());
  EXPECT_THAT(*candidates, ElementsAre(file_, file_ + ".3", file_ + ".2"));
}

TEST_F(ImageSeriesTest, OneImageNeedsNoOtherName) {
  ImageSeries series = open(1);
  save(series, "a");
  save(series, "b");
  EXPECT_THAT(names(), ElementsAre(".job.lock", "job"));
  EXPECT_EQ(text_of("job"), "b");
}

TEST_F(ImageSeriesTest, ACheckpointThatFailsLeavesAllAsItWas) {
  ImageSeries series = open(3);
  save(series, "a");
  save(series, "b");
  const auto before = names();
  ASSERT_TRUE(series.before_checkpoint().has_value());
  series.after_checkpoint();
  EXPECT_EQ(names(), before);
  EXPECT_EQ(text_of("job"), "b");
}

TEST_F(ImageSeriesTest, ACheckpointThatWasCutOffNeverCostsAnImage) {
  {
    ImageSeries series = open(3);
    save(series, "a");
    save(series, "b");
    ASSERT_TRUE(series.before_checkpoint().has_value());  // and then the power goes
  }
  ImageSeries series = open(3);
  EXPECT_EQ(text_of("job"), "b");
  save(series, "c");
  EXPECT_THAT(names(), ElementsAre(".job.lock", "job", "job.1", "job.2"));
  EXPECT_EQ(text_of("job.2"), "b");
  EXPECT_EQ(text_of("job.1"), "a");
}

TEST_F(ImageSeriesTest, OnlyImagesAreCountedAndRemoved) {
  std::ofstream(file_ + ".7") << "somebody's notes";
  std::ofstream(file_ + ".07") << "notes";
  std::ofstream(file_ + ".x") << "notes";
  std::ofstream(directory_ + "/jobs.1") << "notes";
  std::filesystem::create_symlink("job.7", file_ + ".9");
  ImageSeries series = open(2);
  for (const char* const text : {"a", "b", "c"}) save(series, text);
  EXPECT_EQ(text_of("job"), "c");
  ASSERT_TRUE(series.remove().has_value());
  EXPECT_THAT(names(), ElementsAre(".job.lock", "job.07", "job.7", "job.9", "job.x", "jobs.1"));
}

TEST_F(ImageSeriesTest, WithoutTheNewestThereIsNothingToRestart) {
  publish("job.3", "old");
  const ImageSeries series = open(2);
  const auto candidates = series.candidates();
  ASSERT_TRUE(candidates.has_value());
  EXPECT_THAT(*candidates, IsEmpty());
}

TEST_F(ImageSeriesTest, AnOlderImageTakesThePlaceOfADamagedOne) {
  ImageSeries series = open(3);
  for (const char* const text : {"a", "b", "c"}) save(series, text);
  ASSERT_TRUE(series.fall_back_to(file_ + ".1").has_value());
  EXPECT_EQ(text_of("job"), "a");
  EXPECT_EQ(text_of("job.damaged"), "c");
  save(series, "d");
  EXPECT_EQ(text_of("job"), "d");
  EXPECT_EQ(text_of("job.3"), "a");
}

TEST_F(ImageSeriesTest, WhatAKeptImageGoesBackToStays) {
  ImageSeries series = open(1, true);
  EXPECT_FALSE(save_image(series, 100));
  EXPECT_TRUE(save_image(series, 1));
  EXPECT_TRUE(save_image(series, 1));
  EXPECT_THAT(names(), ElementsAre(".job.lock", "job", "job.1", "job.2"));
  // Whoever knows nothing of chains does not break them.
  ASSERT_TRUE(series.before_checkpoint().has_value());
  publish_image("", 1);
  series.after_checkpoint();
  EXPECT_THAT(names(), ElementsAre(".job.lock", "job"));
}

TEST_F(ImageSeriesTest, DifferencesThatAreAsLargeAsAWholeImageEndTheChain) {
  ImageSeries series = open(1, true);
  EXPECT_FALSE(save_image(series, 100));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(save_image(series, 40));
  EXPECT_FALSE(save_image(series, 100));
  EXPECT_THAT(names(), ElementsAre(".job.lock", "job"));
}

TEST_F(ImageSeriesTest, AChainIsNotTooLong) {
  ImageSeries series = open(2, true);
  unsigned whole = 0;
  for (unsigned i = 0; i < 3 * kMaxChain; ++i) whole += save_image(series, i == 0 ? 2000 : 1) ? 0 : 1;
  EXPECT_GE(whole, 2u);
  EXPECT_LE(names().size(), kMaxChain);
}

TEST_F(ImageSeriesTest, WhatAKilledRunLeftHalfWrittenGoes) {
  const std::string half = directory_ + "/.job.0123456789abcdef.part";
  const std::string foreign = directory_ + "/.jobs.0123456789abcdef.part";
  std::ofstream{half} << "half";
  std::ofstream{foreign} << "half";
  const ImageSeries series = open(2);
  EXPECT_FALSE(std::filesystem::exists(half));
  EXPECT_TRUE(std::filesystem::exists(foreign));
}

TEST_F(ImageSeriesTest, BelongsToOneRunAndToItsForks) {
  auto first = std::make_unique<ImageSeries>(open(2));
  const auto refused = ImageSeries::open(file_, {.keep = 2});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Errc::kBusy);
  int hold[2];
  ASSERT_EQ(::pipe2(hold, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte = 0;
    ::close(hold[1]);
    ::_exit(::read(hold[0], &byte, 1) == 0 ? 0 : 1);
  }
  ::close(hold[0]);
  // As if the run had been killed: the name stays, and so does the lock as long as the fork lives.
  std::filesystem::create_hard_link(directory_ + "/.job.lock", directory_ + "/kept");
  first.reset();
  std::filesystem::rename(directory_ + "/kept", directory_ + "/.job.lock");
  EXPECT_FALSE(ImageSeries::open(file_, {.keep = 2}).has_value());
  ::close(hold[1]);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(ImageSeries::open(file_, {.keep = 2}).has_value());
  EXPECT_THAT(names(), IsEmpty());
}

TEST_F(ImageSeriesTest, RefusesWhatIsNoPlaceForAnImage) {
  EXPECT_FALSE(ImageSeries::open(directory_ + "/nowhere/job", {.keep = 2}).has_value());
  EXPECT_FALSE(ImageSeries::open(directory_, {.keep = 2}).has_value());
  EXPECT_FALSE(ImageSeries::open(directory_ + "/", {.keep = 2}).has_value());
  EXPECT_FALSE(ImageSeries::open("", {.keep = 2}).has_value());
}

}  // namespace
}  // namespace stasis
