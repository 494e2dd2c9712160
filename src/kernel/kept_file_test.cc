// SPDX-License-Identifier: Apache-2.0
#include "kernel/kept_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "kernel/proc_children.h"

namespace stasis::kernel {
namespace {

class KeptFiles : public testing::Test {
 protected:
  // One that waits until it is killed.
  static pid_t sleeper() {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
    return child;
  }
  static void end(pid_t child) {
    ::kill(child, SIGKILL);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  }
  Result<ProcDir> proc_ = ProcDir::open(HostPid(::getpid()));
  const std::string children_ = fmt::format("task/{}/children", ::gettid());
};

TEST_F(KeptFiles, TellWhatIsSoNow) {
  ASSERT_TRUE(proc_);
  const KeptFile file = KeptFile::open(*proc_, children_);
  ASSERT_TRUE(file);
  EXPECT_EQ(*file.read(), "");
  std::vector<HostPid> born;
  for (int i = 0; i < 1000; ++i) born.push_back(HostPid(sleeper()));  // more than one part of the text
  std::ranges::sort(born);
  auto told = parse_children(*file.read());
  ASSERT_TRUE(told);
  std::ranges::sort(*told);
  EXPECT_EQ(*told, born);
  for (const HostPid child : born) end(child.value());
  EXPECT_EQ(*file.read(), "");
}

TEST_F(KeptFiles, OfATaskThatIsGoneIsAnError) {
  const pid_t child = sleeper();
  const auto proc = ProcDir::open(HostPid(child));
  ASSERT_TRUE(proc);
  const KeptFile file = KeptFile::open(*proc, "stat");
  ASSERT_TRUE(file);
  EXPECT_TRUE(file.read());
  end(child);
  EXPECT_FALSE(file.read());
}

TEST_F(KeptFiles, NoneIsKeptWhereDescriptorsRunShort) {
  ASSERT_TRUE(proc_);
  EXPECT_FALSE(KeptFile::open(*proc_, "no-such-file"));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few{8, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  const KeptFile file = KeptFile::open(*proc_, "stat");
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(file);
}

}  // namespace
}  // namespace stasis::kernel
