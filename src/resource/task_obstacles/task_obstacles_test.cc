// SPDX-License-Identifier: Apache-2.0
#include "resource/task_obstacles/task_obstacles.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "resource/testing/child.h"

namespace stasis {
namespace {

using ::testing::AllOf;
using testing::Child;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Obstacles obstacles_of(HostPid pid) {
  const auto proc = kernel::ProcDir::open(pid);
  EXPECT_TRUE(proc);
  auto observer = Observer::here();
  EXPECT_TRUE(observer);
  auto found = find_task_obstacles(*proc, *observer);
  EXPECT_TRUE(found) << found.error().to_string();
  return found ? *found : Obstacles{};
}

auto is_obstacle(Errc code, const std::string& why) {
  return AllOf(Field(&Obstacle::code, code), Field(&Obstacle::why, HasSubstr(why)));
}

// What is still to come (a child on its way into a state) is waited for.
template <class Condition>
bool comes_true(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (std::chrono::steady_clock::now() < deadline) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

void kill_children_of(const kernel::ProcDir& proc) {
  const auto children = proc.children();
  ASSERT_TRUE(children);
  for (const HostPid child : *children) ::kill(child.value(), SIGKILL);
}

TEST(TaskObstacles, AnOrdinaryProcessHasNone) {
  Child plain;
  EXPECT_THAT(obstacles_of(plain.pid()), IsEmpty());
}

TEST(TaskObstacles, AStoppedProcessHasNone) {
  Child stopped;
  ::kill(stopped.pid().value(), SIGSTOP);
  ASSERT_EQ(::waitpid(stopped.pid().value(), nullptr, WUNTRACED), stopped.pid().value());
  EXPECT_THAT(obstacles_of(stopped.pid()), IsEmpty());
}

TEST(TaskObstacles, AZombieIsNamed) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_THAT(obstacles_of(HostPid(pid)), ElementsAre(is_obstacle(Errc::kUnsupportedTask, "zombie")));
  ::waitpid(pid, nullptr, 0);
}

TEST(TaskObstacles, ALeaderThatEndedBeforeItsThreadsIsNone) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::thread([] {
      for (;;) ::pause();
    }).detach();
    ::syscall(SYS_exit, 0);  // of this thread alone
  }
  ASSERT_TRUE(comes_true([&] {
    const auto proc = kernel::ProcDir::open(HostPid(pid));
    return proc && proc->status()->zombie();
  }));
  EXPECT_THAT(obstacles_of(HostPid(pid)), IsEmpty());
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

TEST(TaskObstacles, ATracerIsNamed) {
  Child traced;
  Child tracer([&] { return ::ptrace(PTRACE_SEIZE, traced.pid().value(), 0, 0) == 0; });
  if (!tracer.ready()) GTEST_SKIP() << "a sibling may not trace here";
  EXPECT_THAT(obstacles_of(traced.pid()),
              ElementsAre(is_obstacle(Errc::kAlreadyTraced, fmt::format("process {}", tracer.pid().value()))));
}

TEST(TaskObstacles, SeccompIsNamed) {
  Child confined([] {
    sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog program{.len = 1, .filter = allow};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
  });
  ASSERT_TRUE(confined.ready());
  const Obstacles found = obstacles_of(confined.pid());
  if (Observer::here()->may_suspend_seccomp) {
    EXPECT_THAT(found, IsEmpty());
  } else {
    EXPECT_THAT(found, ElementsAre(is_obstacle(Errc::kSeccomp, "seccomp filters")));
  }
}

TEST(TaskObstacles, ItsOwnNamespacesAreNamed) {
  Child elsewhere([] { return ::unshare(CLONE_NEWUTS | CLONE_NEWNET) == 0; });
  if (!elsewhere.ready()) GTEST_SKIP() << "namespaces are not permitted here";
  EXPECT_THAT(obstacles_of(elsewhere.pid()), ElementsAre(is_obstacle(Errc::kUnsupportedTask, "net, uts")));
}

TEST(TaskObstacles, ANamespaceForItsChildrenIsNamed) {
  Child elsewhere([] { return ::unshare(CLONE_NEWPID) == 0; });
  if (!elsewhere.ready()) GTEST_SKIP() << "namespaces are not permitted here";
  EXPECT_THAT(obstacles_of(elsewhere.pid()), ElementsAre(is_obstacle(Errc::kUnsupportedTask, "pid_for_children")));
}

// Process 1 of a new pid namespace that calls itself `name`, and its child; the child's pid as we see it.
class NamespaceWithInit {
 public:
  explicit NamespaceWithInit(const char* name) {
    channel_ = static_cast<std::atomic<int>*>(
        ::mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const pid_t init = static_cast<pid_t>(::syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWIPC | SIGCHLD, 0, 0, 0, 0));
    if (init == 0) {
      ::prctl(PR_SET_NAME, name);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::fork() == 0) *channel_ = 1;
      for (;;) ::pause();
    }
    init_ = init;
    if (init_ < 0) return;
    comes_true([&] { return channel_->load() == 1; });
    const auto children = kernel::ProcDir::open(HostPid(init_))->children();
    if (children && children->size() == 1) task_ = children->front();
  }
  ~NamespaceWithInit() {
    if (init_ > 0) {
      ::kill(init_, SIGKILL);
      ::waitpid(init_, nullptr, 0);
    }
    ::munmap(channel_, sizeof(std::atomic<int>));
  }
  bool permitted() const { return init_ > 0; }
  HostPid task() const { return task_; }

 private:
  std::atomic<int>* channel_ = nullptr;
  pid_t init_ = -1;
  HostPid task_;
};

TEST(TaskObstacles, NamespacesThatStasisMadeAreNone) {
  NamespaceWithInit ours("stasis-init");
  if (!ours.permitted()) GTEST_SKIP() << "namespaces are not permitted here";
  EXPECT_THAT(obstacles_of(ours.task()), IsEmpty());
  NamespaceWithInit theirs("another-init");
  ASSERT_TRUE(theirs.permitted());
  EXPECT_THAT(obstacles_of(theirs.task()), ElementsAre(is_obstacle(Errc::kUnsupportedTask, "pid, ipc")));
}

TEST(TaskObstacles, AChrootIsNone) {
  Child jailed([] { return ::chroot("/proc/self/fdinfo") == 0 || ::chroot("/usr") == 0; });
  if (!jailed.ready()) GTEST_SKIP() << "chroot is not permitted here";
  EXPECT_THAT(obstacles_of(jailed.pid()), IsEmpty());
}

TEST(TaskObstacles, ChildrenAreNone) {
  Child parent([] {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
    return child > 0;
  });
  ASSERT_TRUE(parent.ready());
  EXPECT_THAT(obstacles_of(parent.pid()), IsEmpty());
  kill_children_of(*kernel::ProcDir::open(parent.pid()));
}

TEST(TaskObstacles, SemaphoreUndoIsNamed) {
  const int set = ::semget(IPC_PRIVATE, 1, 0600);
  if (set < 0) GTEST_SKIP() << "no System V semaphores here";
  {
    Child undoer([&] {
      sembuf up{.sem_num = 0, .sem_op = 1, .sem_flg = SEM_UNDO};
      return ::semop(set, &up, 1) == 0;
    });
    EXPECT_TRUE(undoer.ready());
    EXPECT_THAT(obstacles_of(undoer.pid()), ElementsAre(is_obstacle(Errc::kUnsupportedObject, "SEM_UNDO")));
  }
  ::semctl(set, 0, IPC_RMID);
}

TEST(TaskObstacles, SemaphoreUndoOfOneOfSeveralThreadsIsNamed) {
  const int set = ::semget(IPC_PRIVATE, 1, 0600);
  if (set < 0) GTEST_SKIP() << "no System V semaphores here";
  {
    Child undoer([&] {
      std::thread([] {
        for (;;) ::pause();
      }).detach();
      sembuf up{.sem_num = 0, .sem_op = 1, .sem_flg = SEM_UNDO};
      return ::semop(set, &up, 1) == 0;
    });
    EXPECT_TRUE(undoer.ready());
    EXPECT_THAT(obstacles_of(undoer.pid()), ElementsAre(is_obstacle(Errc::kUnsupportedObject, "SEM_UNDO")));
  }
  ::semctl(set, 0, IPC_RMID);
}

TEST(TaskObstacles, WhatAProcessCanChangeUnseenIsFoundOnceItStands) {
  const int set = ::semget(IPC_PRIVATE, 1, 0600);
  if (set < 0) GTEST_SKIP() << "no System V semaphores here";
  {
    Child undoer([&] {
      sembuf up{.sem_num = 0, .sem_op = 1, .sem_flg = SEM_UNDO};
      return ::semop(set, &up, 1) == 0;
    });
    const Child innocent;
    EXPECT_TRUE(undoer.ready());
    const Observer observer = *Observer::here();
    const auto late = [&](HostPid pid) {
      const auto proc = *kernel::ProcDir::open(pid);
      const auto status = *proc.status();
      const auto semaphores = *UsedSemaphores::look();
      const auto facts = look_at_frozen_task({proc, status, 1, TaskFacts{}}, observer, semaphores);
      EXPECT_TRUE(facts);
      return facts ? find_task_obstacles(*facts, observer) : Obstacles{};
    };
    EXPECT_THAT(late(undoer.pid()), ElementsAre(is_obstacle(Errc::kUnsupportedObject, "SEM_UNDO")));
    EXPECT_THAT(late(innocent.pid()), IsEmpty());
  }
  ::semctl(set, 0, IPC_RMID);
}

// A set on which somebody else, namely we, has operated: while there is none, nobody is asked.
class UsedSet {
 public:
  UsedSet() : id_(::semget(IPC_PRIVATE, 1, 0600)) {
    sembuf up{.sem_num = 0, .sem_op = 1, .sem_flg = 0};
    if (id_ >= 0) {
      EXPECT_EQ(::semop(id_, &up, 1), 0);
    }
  }
  ~UsedSet() { ::semctl(id_, 0, IPC_RMID); }
  bool there() const { return id_ >= 0; }

 private:
  int id_;
};

TEST(TaskObstacles, ThreadsAloneDoNotLookLikeSemaphoreUndo) {
  const UsedSet used;
  if (!used.there()) GTEST_SKIP() << "no System V semaphores here";
  Child threaded([] {
    std::thread([] {
      for (;;) ::pause();
    }).detach();
    return true;
  });
  EXPECT_THAT(obstacles_of(threaded.pid()), IsEmpty());
}

// In the freeze the one thread that is left is all there is to count.
TEST(TaskObstacles, NeitherDoesTheThreadThatOutlivedItsLeader) {
  const UsedSet used;
  if (!used.there()) GTEST_SKIP() << "no System V semaphores here";
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::thread([] {
      for (;;) ::pause();
    }).detach();
    ::syscall(SYS_exit, 0);  // of this thread alone
  }
  ASSERT_TRUE(comes_true([&] {
    const auto found = kernel::ProcDir::open(HostPid(pid));
    return found && found->status()->zombie();
  }));
  {
    const auto proc = *kernel::ProcDir::open(HostPid(pid));
    const auto status = *proc.status();
    const Observer observer = *Observer::here();
    const auto semaphores = *UsedSemaphores::look();
    const auto facts = look_at_frozen_task({proc, status, 1, TaskFacts{}}, observer, semaphores);
    ASSERT_TRUE(facts) << facts.error().to_string();
    EXPECT_FALSE(facts->semaphore_undo);
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

TEST(TaskObstacles, OurOwnAncestorsAreNamed) {
  EXPECT_THAT(obstacles_of(HostPid(::getpid())), ::testing::Contains(is_obstacle(Errc::kOwnTree, "inside it")));
  const Observer observer = *Observer::here();
  EXPECT_THAT(observer.ancestors, ::testing::Contains(HostPid(::getppid())));
}

TEST(TaskObstacles, AnotherUsersProcessIsNamedWithItsOwner) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root to be two users";
  Child rootly;
  // As somebody else, in a child: the answer comes back as its exit status.
  const pid_t asker = ::fork();
  if (asker == 0) {
    if (::setgid(1234) != 0 || ::setuid(1234) != 0) ::_exit(2);
    const Obstacles found = obstacles_of(rootly.pid());
    const bool right = found.size() == 1 && found[0].code == Errc::kNotOwner && found[0].why == "it belongs to user 0";
    ::_exit(right ? 0 : 1);
  }
  int status = -1;
  ::waitpid(asker, &status, 0);
  EXPECT_EQ(status, 0);
}

// ---- judged from made-up facts --------------------------------------------------------------------------------------

struct Made {
  TaskFacts facts{.pid = HostPid(10), .accessible = true, .uid = 1000};
  Observer observer{.pid = HostPid(5), .uid = 1000};
  Made() { facts.threads = {{.tid = HostPid(10), .state = 'S'}}; }
  Obstacles judged() const { return find_task_obstacles(facts, observer); }
};

TEST(TaskObstacles, AKernelThreadIsAllThereIsToSay) {
  Made made;
  made.facts.kernel_thread = true;
  made.facts.accessible = false;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kUnsupportedTask, "part of the kernel")));
}

TEST(TaskObstacles, LackOfAccessIsExplainedByItsLikeliestCause) {
  Made made;
  made.facts.accessible = false;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kNotPermitted, "does not permit")));
  made.observer.yama_scope = 1;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kNotPermitted, "yama")));
  EXPECT_THAT(made.judged()[0].help, HasSubstr("stasis run"));
  made.facts.permitted = std::uint64_t{1} << CAP_NET_RAW;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kNotOwner, "CAP_NET_RAW")));
  made.facts.dumpable = false;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kNotOwner, "undumpable")));
  made.facts.uid = 1001;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kNotOwner, "user 1001")));
}

TEST(TaskObstacles, SeccompOfAnyThreadCountsAndNamesWhatHelps) {
  Made made;
  made.facts.threads.push_back({.tid = HostPid(11), .state = 'S', .seccomp = 2});
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kSeccomp, "CAP_SYS_ADMIN")));
  EXPECT_EQ(made.judged()[0].object, "thread 11");
  made.observer.may_suspend_seccomp = true;
  EXPECT_THAT(made.judged(), IsEmpty());
}

TEST(TaskObstacles, ForeignCodeCoreDumpsAndShadowStacksAreNamed) {
  Made made;
  made.facts.program = ProgramKind::kForeign;
  made.facts.core_dumping = true;
  made.facts.threads[0].shadow_stack = true;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kUnsupportedTask, "shadow stack"),
                                         is_obstacle(Errc::kUnsupportedTask, "core dump"),
                                         is_obstacle(Errc::kUnsupportedTask, "64-bit")));
}

TEST(TaskObstacles, OfStasisNamespacesOnlyTheFurtherOnesAreForeign) {
  Made made;
  made.facts.init_name = kInitName;
  made.facts.namespaces = {1, 2, 3, 4, 5, 6, 7, 8, 2, 5};
  made.facts.init_namespaces = made.facts.namespaces;
  EXPECT_THAT(made.judged(), IsEmpty());
  made.facts.init_namespaces[5] = 99;
  EXPECT_THAT(made.judged(), ElementsAre(is_obstacle(Errc::kUnsupportedTask, "(net)")));
}

}  // namespace
}  // namespace stasis
