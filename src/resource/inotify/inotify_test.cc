// SPDX-License-Identifier: Apache-2.0
#include "resource/inotify/inotify.h"

#include <gtest/gtest.h>
#include <sys/inotify.h>

#include <array>

#include "base/file.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

struct Event {
  int watch;
  std::uint32_t mask;
  std::string name;
  auto operator<=>(const Event&) const = default;
};

std::vector<Event> take_events(int fd) {
  alignas(::inotify_event) std::array<char, 8192> bytes;
  const ssize_t got = ::read(fd, bytes.data(), bytes.size());
  std::vector<Event> events;
  for (ssize_t at = 0; at < got;) {
    const auto* const event = reinterpret_cast<const ::inotify_event*>(bytes.data() + at);
    events.push_back({event->wd, event->mask, event->len != 0 ? event->name : ""});
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  return events;
}

void touch(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(fd.get(), "x", 1), 1);
}

TEST(Inotify, WatchesComeBackUnderTheirNumbers) {
  const sample::ScratchDir files;
  touch(files / "a");
  RoundTrip trip;
  UniqueFd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_EQ(::inotify_add_watch(fd.get(), files.path().c_str(), IN_CREATE), 1);
  ASSERT_EQ(::inotify_add_watch(fd.get(), "/", IN_CREATE), 2);
  ASSERT_EQ(::inotify_add_watch(fd.get(), (files / "a").c_str(), IN_MODIFY | IN_ONESHOT), 3);
  ASSERT_EQ(::inotify_rm_watch(fd.get(), 2), 0);
  ASSERT_EQ(take_events(fd.get()).size(), 1u);
  const auto saved = trip.save({fd.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  fd.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  EXPECT_TRUE(take_events(trip.fd(0)).empty());
  touch(files / "a");
  touch(files / "b");
  touch(files / "a");
  const std::vector<Event> expected = {{3, IN_MODIFY, ""}, {3, IN_IGNORED, ""}, {1, IN_CREATE, "b"}};
  EXPECT_EQ(take_events(trip.fd(0)), expected);
}

TEST(Inotify, EventsThatWaitedAreSaidToBeLost) {
  const sample::ScratchDir files;
  RoundTrip trip;
  UniqueFd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_EQ(::inotify_add_watch(fd.get(), files.path().c_str(), IN_CREATE), 1);
  touch(files / "a");
  const auto saved = trip.save({fd.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  EXPECT_EQ(take_events(fd.get()), (std::vector<Event>{{1, IN_CREATE, "a"}}));  // the live one keeps them
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(take_events(trip.fd(0)), (std::vector<Event>{{-1, IN_Q_OVERFLOW, ""}}));
  touch(files / "b");
  EXPECT_EQ(take_events(trip.fd(0)), (std::vector<Event>{{1, IN_CREATE, "b"}}));
}

TEST(Inotify, PathsAreFoundWithoutFileHandles) {
  const sample::ScratchDir files;
  touch(files / "a");
  const UniqueFd beside(::open((files / "a").c_str(), O_RDONLY | O_CLOEXEC));
  UniqueFd fd(::inotify_init1(IN_CLOEXEC));
  ASSERT_EQ(::inotify_add_watch(fd.get(), files.path().c_str(), IN_CREATE), 1);
  const OpenFileTable table = testing::gather_own_files();
  const OpenFile& file = *testing::find_file(table, fd.get());
  auto watches = parse_inotify_watches(file.info);
  ASSERT_TRUE(watches);
  ASSERT_EQ(watches->size(), 1u);
  watches->front().handle.clear();
  EXPECT_EQ(find_watched_paths(file, std::vector<WatchedFile>(watches->begin(), watches->end()), table).front(),
            files.path());
}

TEST(Inotify, AFileThatIsGoneIsAnObstacle) {
  const sample::ScratchDir files;
  touch(files / "a");
  const UniqueFd open(::open((files / "a").c_str(), O_RDONLY | O_CLOEXEC));
  UniqueFd fd(::inotify_init1(IN_CLOEXEC));
  ASSERT_EQ(::inotify_add_watch(fd.get(), (files / "a").c_str(), IN_MODIFY), 1);
  ASSERT_EQ(::unlink((files / "a").c_str()), 0);
  const OpenFileTable table = testing::gather_own_files();
  const auto obstacle = inotify_obstacle(*testing::find_file(table, fd.get()), table, {});
  ASSERT_TRUE(obstacle);
  EXPECT_EQ(obstacle->code, Errc::kUnsupportedObject);
}

TEST(Inotify, MalformedLinesAreErrors) {
  const auto parses = [](const char* line) {
    kernel::FdInfo info;
    info.rest = line;
    return parse_inotify_watches(info).has_value();
  };
  EXPECT_TRUE(parses("inotify wd:1 ino:2 sdev:3 mask:fff ignored_mask:0\n"));
  EXPECT_FALSE(parses("inotify wd:x ino:2 sdev:3 mask:fff ignored_mask:0\n"));
  EXPECT_FALSE(parses("inotify wd:0 ino:2 sdev:3 mask:fff ignored_mask:0\n"));
  EXPECT_FALSE(parses("inotify ino:2 sdev:3 mask:fff\n"));
  EXPECT_FALSE(parses("inotify wd:1 ino:2 sdev:3 mask:fff f_handle:abc\n"));
}

TEST(Inotify, HostileRecordsAreRefused) {
  for (const InotifyWatchRecord& watch : {InotifyWatchRecord{.number = 0, .mask = IN_OPEN, .path = "/"},
                                          InotifyWatchRecord{.number = 1 << 30, .mask = IN_OPEN, .path = "/"},
                                          InotifyWatchRecord{.number = 1, .mask = IN_MASK_ADD, .path = "/"},
                                          InotifyWatchRecord{.number = 1, .mask = IN_OPEN, .path = "relative"}}) {
    EXPECT_FALSE(testing::restore_record(InotifyRecord{.watches = {watch}}, kind::kInotify));
  }
}

}  // namespace
}  // namespace stasis
