// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/outside.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/proc_dir.h"

namespace stasis {
namespace {

using testing::ElementsAre;
using testing::Field;
using testing::IsEmpty;

TEST(OutsideHolders, OneThatHasEndedSinceHoldsNothing) {
  constexpr std::size_t kSize = 1 << 16;
  void* const memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::set<OutsideHolders::MappedFileName> files;
  const auto vmas = kernel::ProcDir::open(HostPid(::getpid()))->maps();
  ASSERT_TRUE(vmas);
  for (const kernel::Vma& vma : *vmas) {
    if (vma.start != reinterpret_cast<std::uint64_t>(memory)) continue;
    files.insert({makedev(vma.dev_major, vma.dev_minor), vma.inode, vma.path + " (deleted)"});
  }
  ASSERT_EQ(files.size(), 1U);
  const std::string link = files.begin()->link;
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  OutsideHolders outside;
  ASSERT_TRUE(outside.scan_mappings({}, files));
  outside.forget({});
  EXPECT_THAT(outside.of(link), ElementsAre(Field(&OutsideHolder::pid, HostPid(child))));
  ::kill(child, SIGKILL);
  siginfo_t ended;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);  // a zombie
  outside.forget({});
  EXPECT_THAT(outside.of(link), IsEmpty());
  ::waitpid(child, nullptr, 0);
  ::munmap(memory, kSize);
}

}  // namespace
}  // namespace stasis
