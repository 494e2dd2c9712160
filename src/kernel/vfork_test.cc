// SPDX-License-Identifier: Apache-2.0
#include "kernel/vfork.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/proc_dir.h"

namespace stasis::kernel {
namespace {

TEST(WaitsForVfork, SeesTheParentAndNotTheChild) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Without memory of its own: the parent waits until the child ends.
    if (::syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
    ::_exit(0);
  }
  const auto proc = ProcDir::open(HostPid(pid));
  ASSERT_TRUE(proc);
  constexpr int kTries = 120000;
  int tries = 0;
  while (!waits_for_vfork(HostPid(pid)) && ++tries < kTries) ::usleep(1000);
  EXPECT_LT(tries, kTries);
  const auto children = proc->children();
  ASSERT_TRUE(children);
  ASSERT_EQ(children->size(), 1u);
  EXPECT_FALSE(waits_for_vfork(children->front()));
  ::kill(children->front().value(), SIGKILL);
  int status = -1;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_FALSE(waits_for_vfork(HostPid(pid)));
}

TEST(WaitsForVfork, IsFalseForAPlainProcess) { EXPECT_FALSE(waits_for_vfork(HostPid(::getpid()))); }

}  // namespace
}  // namespace stasis::kernel
