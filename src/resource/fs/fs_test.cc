// SPDX-License-Identifier: Apache-2.0
#include "resource/fs/fs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <filesystem>

#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"
#include "tracee/local_batch.h"

namespace stasis {
namespace {

using testing::Child;

Result<FsState> gather(HostPid pid) {
  const auto proc = STASIS_TRY(kernel::ProcDir::open(pid));
  return gather_fs(proc, STASIS_TRY(proc.status()));
}

TEST(Fs, IsGatheredFromAnotherProcess) {
  const sample::ScratchDir dir;
  const Child child([&] { return ::umask(0123) != 0777 && ::chdir(dir.path().c_str()) == 0; });
  ASSERT_TRUE(child.ready());
  const auto state = gather(child.pid());
  ASSERT_TRUE(state) << state.error().to_string();
  EXPECT_EQ(state->record.root, "/");
  EXPECT_EQ(state->record.working_directory, std::filesystem::canonical(dir.path()));
  EXPECT_EQ(state->record.umask, 0123u);
  EXPECT_FALSE(state->obstacle);
}

TEST(Fs, ADeletedWorkingDirectoryIsAnObstacle) {
  const sample::ScratchDir dir;
  const std::string gone = dir / "gone";
  ASSERT_EQ(::mkdir(gone.c_str(), 0700), 0);
  const Child child([&] { return ::chdir(gone.c_str()) == 0 && ::rmdir(gone.c_str()) == 0; });
  ASSERT_TRUE(child.ready());
  const auto state = gather(child.pid());
  ASSERT_TRUE(state);
  ASSERT_TRUE(state->obstacle);
  EXPECT_EQ(state->obstacle->pid, child.pid());
}

TEST(Fs, AChangedRootIsADirectoryToUs) {
  if (::geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  const sample::ScratchDir dir;
  const Child child([&] { return ::chroot(dir.path().c_str()) == 0 && ::chdir("/") == 0; });
  ASSERT_TRUE(child.ready());
  const auto state = gather(child.pid());
  ASSERT_TRUE(state);
  EXPECT_EQ(state->record.root, std::filesystem::canonical(dir.path()));
  EXPECT_EQ(state->record.working_directory, state->record.root);
  EXPECT_FALSE(state->obstacle);
}

TEST(Fs, ADeletedRootIsAnObstacle) {
  if (::geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  const sample::ScratchDir dir;
  const std::string gone = dir / "gone";
  ASSERT_EQ(::mkdir(gone.c_str(), 0700), 0);
  const Child child([&] { return ::chroot(gone.c_str()) == 0 && ::chdir("/") == 0; });
  ASSERT_TRUE(child.ready());
  ASSERT_EQ(::rmdir(gone.c_str()), 0);
  const auto state = gather(child.pid());
  ASSERT_TRUE(state);
  ASSERT_TRUE(state->obstacle);
  EXPECT_NE(state->obstacle->object.find("root directory"), std::string::npos);
}

TEST(Fs, IsInstalled) {
  const sample::ScratchDir dir;
  RestoredFs fs;
  fs.record = {.root = "/", .working_directory = dir.path(), .umask = 0137};
  fs.working_directory.reset(::open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const pid_t pid = ::fork();
  if (pid == 0) {
    LocalBatch calls;
    BatchChecks checks;
    fs.install(calls.batch(), checks);
    calls.run();
    const bool good = checks.verify(calls.batch()) && ::umask(0) == 0137 &&
                      std::filesystem::current_path() == std::filesystem::canonical(dir.path());
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace stasis
