// SPDX-License-Identifier: Apache-2.0
#include "resource/system_v/semaphores_and_queues.h"

#include <gtest/gtest.h>
#include <sys/msg.h>
#include <sys/sem.h>

#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

struct Message {
  long type;
  char text[8];
};

struct Objects {
  Objects() : semaphores(::semget(IPC_PRIVATE, 3, IPC_CREAT | 0600)), queue(::msgget(IPC_PRIVATE, IPC_CREAT | 0600)) {}
  ~Objects() {
    ::semctl(semaphores, 0, IPC_RMID);
    ::msgctl(queue, IPC_RMID, nullptr);
  }
  bool there() const { return semaphores >= 0 && queue >= 0; }
  const SemaphoreSetRecord* in(const SystemVRecord& record) const {
    const auto found =
        std::ranges::find(record.semaphores, semaphores, [](const SemaphoreSetRecord& set) { return set.owner.id; });
    return found == record.semaphores.end() ? nullptr : &*found;
  }
  const SystemVQueueRecord* queue_in(const SystemVRecord& record) const {
    const auto found = std::ranges::find(record.queues, queue, [](const SystemVQueueRecord& q) { return q.owner.id; });
    return found == record.queues.end() ? nullptr : &*found;
  }
  int semaphores;
  int queue;
};

Result<void> restore(const SystemVRecord& record) { return testing::restore_record(record, kind::kSystemV); }

const std::vector<HostPid> kSelf = {HostPid(::getpid())};

TEST(SystemV, WhatAProcessUsedIsFoundAndGetsItsStateBack) {
  const Objects objects;
  if (!objects.there()) GTEST_SKIP() << "no System V objects here";
  ASSERT_EQ(::semctl(objects.semaphores, 1, SETVAL, 7), 0);
  Message message{.type = 5, .text = "abc"};
  ASSERT_EQ(::msgsnd(objects.queue, &message, 3, 0), 0);
  message.type = 6;
  ASSERT_EQ(::msgsnd(objects.queue, &message, 0, 0), 0);
  const auto found = gather_system_v(kSelf);
  ASSERT_TRUE(found) << found.error().to_string();
  ASSERT_NE(objects.in(*found), nullptr);
  EXPECT_EQ(objects.in(*found)->values, (std::vector<std::uint32_t>{0, 7, 0}));
  ASSERT_NE(objects.queue_in(*found), nullptr);
  ASSERT_EQ(objects.queue_in(*found)->messages.size(), 2u);
  EXPECT_EQ(objects.queue_in(*found)->messages[0].type, 5);
  EXPECT_EQ(objects.queue_in(*found)->messages[0].bytes.size(), 3u);
  const SystemVRecord ours{.semaphores = {*objects.in(*found)}, .queues = {*objects.queue_in(*found)}};

  ASSERT_EQ(::semctl(objects.semaphores, 1, SETVAL, 1), 0);
  const auto again = restore(ours);
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_EQ(::semctl(objects.semaphores, 1, GETVAL), 7);

  ASSERT_EQ(::msgrcv(objects.queue, &message, 8, 0, 0), 3);
  EXPECT_EQ(restore(ours).error().code(), Errc::kFileChanged);  // somebody took a message meanwhile
}

TEST(SystemV, WhatIsGoneIsMadeAgainUnderItsId) {
  SystemVRecord ours;
  {
    const Objects objects;
    if (!objects.there()) GTEST_SKIP() << "no System V objects here";
    ASSERT_EQ(::semctl(objects.semaphores, 0, SETVAL, 3), 0);
    const Message message{.type = 5, .text = "abc"};
    ASSERT_EQ(::msgsnd(objects.queue, &message, 3, 0), 0);
    const auto found = gather_system_v(kSelf);
    ASSERT_TRUE(found && objects.in(*found) != nullptr && objects.queue_in(*found) != nullptr);
    ours = {.semaphores = {*objects.in(*found)}, .queues = {*objects.queue_in(*found)}};
  }
  // The undo queue of that restart, which is never dismissed, removes them again.
  const auto made = restore(ours);
  if (!made && made.error().code() == Errc::kNotPermitted) GTEST_SKIP() << made.error().to_string();
  ASSERT_TRUE(made) << made.error().to_string();
  EXPECT_EQ(::semctl(ours.semaphores[0].owner.id, 0, GETVAL), -1);
  ::msqid_ds status{};
  EXPECT_EQ(::msgctl(ours.queues[0].owner.id, IPC_STAT, &status), -1);
}

TEST(SystemV, ObjectsOfOthersAreLeftAlone) {
  const Objects objects;
  if (!objects.there()) GTEST_SKIP() << "no System V objects here";
  const auto found = gather_system_v(kSelf);
  ASSERT_TRUE(found) << found.error().to_string();
  EXPECT_EQ(objects.in(*found), nullptr);  // made, but never used
  EXPECT_EQ(objects.queue_in(*found), nullptr);
}

TEST(SystemV, HostileRecordsAreRefused) {
  EXPECT_FALSE(restore({.semaphores = {{.owner = {.id = 1}, .values = {}}}, .queues = {}}));
  EXPECT_FALSE(restore({.semaphores = {{.owner = {.id = 1}, .values = {70000}}}, .queues = {}}));
  EXPECT_FALSE(restore({.semaphores = {}, .queues = {{.owner = {.id = -5}}}}));
}

}  // namespace
}  // namespace stasis
