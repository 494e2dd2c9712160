// SPDX-License-Identifier: Apache-2.0
#include "resource/message_queue/message_queue.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <mqueue.h>
#include <signal.h>

#include "base/file.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

struct Queue {
  explicit Queue(std::string what) : name(fmt::format("/stasis-{}-{}", ::getpid(), what)) {
    mq_attr attributes{};
    attributes.mq_maxmsg = 5;
    attributes.mq_msgsize = 100;
    fd.reset(::mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0640, &attributes));
  }
  ~Queue() { ::mq_unlink(name.c_str()); }
  std::string name;
  UniqueFd fd;
};

void put(int queue, std::string_view text, unsigned priority) {
  ASSERT_EQ(::mq_send(queue, text.data(), text.size(), priority), 0);
}
std::string take(int queue) {
  char buffer[100];
  unsigned priority = 0;
  const ssize_t got = ::mq_receive(queue, buffer, sizeof buffer, &priority);
  return got < 0 ? "(nothing)" : fmt::format("{}:{}", priority, std::string(buffer, static_cast<std::size_t>(got)));
}

TEST(MessageQueue, MessagesAttributesAndFlagsComeBack) {
  RoundTrip trip;
  Queue queue("round-trip");
  if (!queue.fd) GTEST_SKIP() << "no message queues here";
  put(queue.fd.get(), "low", 1);
  put(queue.fd.get(), "high", 9);
  put(queue.fd.get(), "", 1);
  const UniqueFd reading(::mq_open(queue.name.c_str(), O_RDONLY));
  const auto saved = trip.save({queue.fd.get(), reading.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  for (const bool left_behind : {true, false}) {
    if (left_behind) {
      // As it is after a kill: restart takes the queue that is there.
      EXPECT_EQ(take(queue.fd.get()), "9:high");
    } else {
      ASSERT_EQ(::mq_unlink(queue.name.c_str()), 0);
    }
    const auto restored = trip.restore();
    ASSERT_TRUE(restored) << restored.error().to_string();
    mq_attr attributes{};
    ASSERT_EQ(::mq_getattr(trip.fd(0), &attributes), 0);
    EXPECT_EQ(attributes.mq_maxmsg, 5);
    EXPECT_EQ(attributes.mq_msgsize, 100);
    EXPECT_EQ(attributes.mq_flags, O_NONBLOCK);
    EXPECT_EQ(attributes.mq_curmsgs, 3);
    EXPECT_EQ(::fcntl(trip.fd(1), F_GETFL) & O_ACCMODE, O_RDONLY);
    EXPECT_EQ(take(trip.fd(0)), "9:high");
    EXPECT_EQ(take(trip.fd(1)), "1:low");
    EXPECT_EQ(take(trip.fd(0)), "1:");
    EXPECT_EQ(take(trip.fd(0)), "(nothing)");
  }
}

TEST(MessageQueue, AnUnlinkedOneComesBackWithoutName) {
  RoundTrip trip;
  Queue queue("unlinked");
  if (!queue.fd) GTEST_SKIP() << "no message queues here";
  put(queue.fd.get(), "message", 3);
  ASSERT_EQ(::mq_unlink(queue.name.c_str()), 0);
  const auto saved = trip.save({queue.fd.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  EXPECT_EQ(take(queue.fd.get()), "3:message");
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  struct ::stat stat{};
  ASSERT_EQ(::fstat(trip.fd(0), &stat), 0);
  EXPECT_EQ(stat.st_nlink, 0u);
  EXPECT_EQ(stat.st_mode & 0777, 0640u);
  EXPECT_EQ(take(trip.fd(0)), "3:message");
}

TEST(MessageQueue, SomebodyWhoWaitsToBeToldIsAnObstacle) {
  Queue queue("notify");
  if (!queue.fd) GTEST_SKIP() << "no message queues here";
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  ASSERT_EQ(::mq_notify(queue.fd.get(), &event), 0);
  const OpenFileTable table = testing::gather_own_files();
  const auto obstacle = message_queue_obstacle(*testing::find_file(table, queue.fd.get()), table, {});
  ASSERT_TRUE(obstacle);
  EXPECT_NE(obstacle->why.find("mq_notify"), std::string::npos);
  ASSERT_EQ(::mq_notify(queue.fd.get(), nullptr), 0);
  EXPECT_FALSE(message_queue_obstacle(*testing::find_file(table, queue.fd.get()), table, {}));
}

TEST(MessageQueue, AFailedRestartGivesBackWhatWasThere) {
  Queue queue("undo");
  if (!queue.fd) GTEST_SKIP() << "no message queues here";
  put(queue.fd.get(), "first", 2);
  put(queue.fd.get(), "second", 2);
  PosixQueueRecord record{
      .name = queue.name, .unlinked = false, .mode = S_IFREG | 0600, .max_messages = 5, .message_size = 100};
  record.messages = {{.priority = 9, .bytes = std::vector<std::byte>(3)},
                     {.priority = 1, .bytes = std::vector<std::byte>(4)}};
  // It rolls back what it did; at its end, or as one of the messages is too long for the queue.
  EXPECT_TRUE(testing::restore_record(record, kind::kPosixQueue));
  record.messages.back().bytes.resize(101);
  EXPECT_FALSE(testing::restore_record(record, kind::kPosixQueue));
  EXPECT_EQ(take(queue.fd.get()), "2:first");
  EXPECT_EQ(take(queue.fd.get()), "2:second");
  EXPECT_EQ(take(queue.fd.get()), "(nothing)");
}

TEST(MessageQueue, AFileOfThatSizeIsNone) {
  const sample::ScratchDir dir;
  const UniqueFd fd(::open((dir / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::ftruncate(fd.get(), 80), 0);
  const OpenFileTable table = testing::gather_own_files();
  EXPECT_FALSE(claims_message_queue(*testing::find_file(table, fd.get()), table));
}

TEST(MessageQueue, HostileRecordsAreRefused) {
  const auto refused = [](PosixQueueRecord record) { return !testing::restore_record(record, kind::kPosixQueue); };
  const PosixQueueRecord good{
      .name = "/stasis-hostile", .unlinked = true, .mode = S_IFREG | 0600, .max_messages = 1, .message_size = 8};
  EXPECT_FALSE(refused(good));
  for (const char* name : {"", "/", "x", "/a/b"}) {
    PosixQueueRecord bad = good;
    bad.name = name;
    EXPECT_TRUE(refused(bad)) << name;
  }
  PosixQueueRecord bad = good;
  bad.messages.resize(2);
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.max_messages = 0;
  EXPECT_TRUE(refused(bad));
}

}  // namespace
}  // namespace stasis
