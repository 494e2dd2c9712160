// SPDX-License-Identifier: Apache-2.0
#include "resource/system_v/semaphores_and_queues.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>

#include "arch/x86_64/registers.h"
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

using testing::RestartEnd;
Result<void> restore(const SystemVRecord& record, RestartEnd end = RestartEnd::kGivenUp) {
  return testing::restore_record(record, kind::kSystemV, end);
}

const SystemVUsers kSelf = {.tree = {HostPid(::getpid())}, .semaphores = {}, .queues = {}};

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
  const auto again = restore(ours, RestartEnd::kCompleted);
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

ThreadRecord thread_in(long number, int id, InterruptedCallRecord call) {
  const auto registers = arch::with_syscall({}, 0, number, {static_cast<std::uint64_t>(id)});
  ThreadRecord thread{.call = call};
  const auto bytes = std::as_bytes(std::span(&registers, 1));
  thread.registers.assign(bytes.begin(), bytes.end());
  return thread;
}

TEST(SystemV, WhatAThreadWaitsForIsFoundAlthoughNobodyUsedIt) {
  const Objects objects;
  if (!objects.there()) GTEST_SKIP() << "no System V objects here";
  SystemVUsers waiting = kSelf;
  waiting.note_calls(std::array{thread_in(-1, objects.semaphores, {.number = SYS_semtimedop, .rewound = true}),
                                thread_in(-1, objects.queue, {.number = SYS_msgrcv}), ThreadRecord{.ended = true}});
  const auto found = gather_system_v(waiting);
  ASSERT_TRUE(found) << found.error().to_string();
  ASSERT_NE(objects.in(*found), nullptr);
  EXPECT_EQ(objects.in(*found)->values, (std::vector<std::uint32_t>{0, 0, 0}));
  EXPECT_TRUE(objects.in(*found)->only_awaited);
  ASSERT_NE(objects.queue_in(*found), nullptr);
  EXPECT_TRUE(objects.queue_in(*found)->only_awaited);
  // Who wakes the thread may be somebody else: what is there stays as it is.
  const SystemVRecord ours{.semaphores = {*objects.in(*found)}, .queues = {*objects.queue_in(*found)}};
  const Message message{.type = 5, .text = "abc"};
  ASSERT_EQ(::msgsnd(objects.queue, &message, 3, 0), 0);
  ASSERT_EQ(::semctl(objects.semaphores, 1, SETVAL, 3), 0);
  const auto again = restore(ours, RestartEnd::kCompleted);
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_EQ(::semctl(objects.semaphores, 1, GETVAL), 3);

  waiting.tree = {HostPid(::getppid())};
  ASSERT_EQ(::semctl(objects.semaphores, 1, SETVAL, 7), 0);
  const auto of_others = gather_system_v(waiting);
  ASSERT_TRUE(of_others) << of_others.error().to_string();
  EXPECT_EQ(objects.in(*of_others), nullptr);  // ours, who live and are not in that tree
  EXPECT_EQ(objects.queue_in(*of_others), nullptr);
}

TEST(SystemV, AFailedRestartLeavesSemaphoresAsTheyWere) {
  const Objects objects;
  if (!objects.there()) GTEST_SKIP() << "no System V objects here";
  ASSERT_EQ(::semctl(objects.semaphores, 1, SETVAL, 7), 0);
  const auto found = gather_system_v(kSelf);
  ASSERT_TRUE(found && objects.in(*found) != nullptr);
  const SystemVRecord ours{.semaphores = {*objects.in(*found)}, .queues = {}};
  ASSERT_EQ(::semctl(objects.semaphores, 1, SETVAL, 1), 0);
  const auto again = restore(ours);
  ASSERT_TRUE(again) << again.error().to_string();
  EXPECT_EQ(::semctl(objects.semaphores, 1, GETVAL), 1);
}

// In namespaces of its own, where no other user exists. Returns an exit status.
int restore_objects_of_others() {
  constexpr int kSkipped = 77;
  const std::string uids = fmt::format("0 {} 1", ::geteuid()), gids = fmt::format("0 {} 1", ::getegid());
  if (::unshare(CLONE_NEWUSER | CLONE_NEWIPC) != 0) return kSkipped;
  std::ofstream("/proc/self/setgroups") << "deny";
  std::ofstream("/proc/self/uid_map") << uids;
  std::ofstream("/proc/self/gid_map") << gids;
  const SystemVOwner owner{.id = 3, .key = 0, .mode = 006, .uid = 54321, .gid = 54321};
  const SystemVRecord others{.semaphores = {{.owner = owner, .values = {5}}},
                             .queues = {{.owner = owner, .max_bytes = 4096}}};
  const auto made = restore(others, RestartEnd::kCompleted);
  if (!made && made.error().code() == Errc::kNotPermitted) return kSkipped;
  ::semid_ds semaphores{};
  ::msqid_ds queue{};
  const bool right = made && ::semctl(3, 0, IPC_STAT, &semaphores) == 0 && ::msgctl(3, IPC_STAT, &queue) == 0 &&
                     semaphores.sem_perm.mode == 0606 && queue.msg_perm.mode == 0606 && ::semctl(3, 0, GETVAL) == 5;
  if (!made) std::fprintf(stderr, "%s\n", made.error().to_string().c_str());
  return right ? 0 : 1;
}

TEST(SystemV, WhoOwnedAnObjectNeedNotExistInTheNamespace) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(restore_objects_of_others());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no namespaces here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(SystemV, HostileRecordsAreRefused) {
  EXPECT_FALSE(restore({.semaphores = {{.owner = {.id = 1}, .values = {}}}, .queues = {}}));
  EXPECT_FALSE(restore({.semaphores = {{.owner = {.id = 1}, .values = {70000}}}, .queues = {}}));
  EXPECT_FALSE(restore({.semaphores = {}, .queues = {{.owner = {.id = -5}}}}));
}

}  // namespace
}  // namespace stasis
