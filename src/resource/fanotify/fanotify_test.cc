// SPDX-License-Identifier: Apache-2.0
#include "resource/fanotify/fanotify.h"

#include <gtest/gtest.h>
#include <sys/fanotify.h>

#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

FanotifyGroup group_of(int fd) {
  const OpenFileTable table = testing::gather_own_files();
  const auto group = parse_fanotify_group(testing::find_file(table, fd)->info);
  EXPECT_TRUE(group) << group.error().to_string();
  return *group;
}

TEST(Fanotify, MarksComeBack) {
  const sample::ScratchDir files;
  testing::RoundTrip trip;
  UniqueFd fd(::fanotify_init(FAN_REPORT_DFID_NAME | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY));
  if (!fd) GTEST_SKIP() << "no fanotify for this user";
  ASSERT_EQ(::fanotify_mark(fd.get(), FAN_MARK_ADD, FAN_CREATE | FAN_ONDIR, AT_FDCWD, files.path().c_str()), 0);
  const auto saved = trip.save({fd.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const FanotifyGroup before = group_of(fd.get());
  fd.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const FanotifyGroup after = group_of(trip.fd(0));
  EXPECT_EQ(after.flags, before.flags);
  EXPECT_EQ(after.event_flags, before.event_flags);
  ASSERT_EQ(after.marks.size(), 1u);
  EXPECT_EQ(after.marks[0].file.mask, before.marks[0].file.mask);
  EXPECT_EQ(after.marks[0].file.id, before.marks[0].file.id);
}

TEST(Fanotify, UnreadEventsAreAnObstacle) {
  const sample::ScratchDir files;
  const UniqueFd fd(::fanotify_init(FAN_REPORT_FID | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY));
  if (!fd) GTEST_SKIP() << "no fanotify for this user";
  ASSERT_EQ(::fanotify_mark(fd.get(), FAN_MARK_ADD, FAN_CREATE, AT_FDCWD, files.path().c_str()), 0);
  UniqueFd made(::open((files / "a").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(made);
  const OpenFileTable table = testing::gather_own_files();
  const auto obstacle = fanotify_obstacle(*testing::find_file(table, fd.get()), table, {});
  ASSERT_TRUE(obstacle);
  EXPECT_NE(obstacle->help.find("try again"), std::string::npos);
}

TEST(Fanotify, MalformedLinesAreErrors) {
  const auto parses = [](std::string text) {
    kernel::FdInfo info;
    info.rest = std::move(text);
    return parse_fanotify_group(info).has_value();
  };
  const std::string head = "fanotify flags:10 event-flags:0\n";
  EXPECT_TRUE(parses(head + "fanotify ino:2 sdev:3 mflags:40 mask:1 ignored_mask:40000000\n"));
  EXPECT_TRUE(parses(head + "fanotify mnt_id:12 mflags:0 mask:1b ignored_mask:0\n"));
  EXPECT_TRUE(parses(head + "fanotify sdev:3 mflags:0 mask:1 ignored_mask:0\n"));
  EXPECT_FALSE(parses("fanotify sdev:3 mflags:0 mask:1 ignored_mask:0\n"));
  EXPECT_FALSE(parses("fanotify flags:x event-flags:0\n"));
  EXPECT_FALSE(parses(head + "fanotify mnt_ns:3 mflags:0 mask:1 ignored_mask:0\n"));
  EXPECT_FALSE(parses(head + "fanotify sdev:3 mflags:0\n"));
}

TEST(Fanotify, HostileRecordsAreRefused) {
  for (const FanotifyMarkRecord& mark : {FanotifyMarkRecord{.mask = FAN_OPEN, .path = "relative"},
                                         FanotifyMarkRecord{.mask = FAN_OPEN_PERM, .path = "/"},
                                         FanotifyMarkRecord{.flags = FAN_MARK_MOUNT, .mask = FAN_OPEN, .path = "/"}}) {
    EXPECT_FALSE(testing::restore_record(FanotifyRecord{.marks = {mark}}, kind::kFanotify));
  }
}

}  // namespace
}  // namespace stasis
