// SPDX-License-Identifier: Apache-2.0
#include "engine/check.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "resource/testing/child.h"

namespace stasis {
namespace {

using testing::Child;
using ::testing::HasSubstr;
using ::testing::Not;

ProcessReport check(HostPid pid) {
  auto report = check_process(pid, CheckpointPolicy{});
  EXPECT_TRUE(report) << report.error().to_string();
  return report ? *report : ProcessReport{};
}

bool names(const ProcessReport& report, std::string_view text) {
  for (const Obstacle& obstacle : report.obstacles) {
    if (obstacle.to_string().find(text) != std::string::npos) return true;
  }
  return false;
}

// A child that has nothing open but /dev/null, and no more than that in common with the test.
class BareChild {
 public:
  BareChild() {
    int done[2];
    EXPECT_EQ(::pipe(done), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      const int null = ::open("/dev/null", O_RDWR);
      for (const int standard : {0, 1, 2}) ::dup2(null, standard);
      ::close_range(3, ~0U, 0);
      for (;;) ::pause();
    }
    ::close(done[1]);
    char nothing = 0;
    EXPECT_EQ(::read(done[0], &nothing, 1), 0);  // the end: the child has closed it
    ::close(done[0]);
    testing::await_sleep(pid());
  }
  ~BareChild() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  HostPid pid() const { return HostPid(pid_); }

 private:
  pid_t pid_ = -1;
};

TEST(CheckProcess, AnOrdinaryProcessCanBeSaved) {
  BareChild plain;
  const ProcessReport report = check(plain.pid());
  EXPECT_TRUE(report.can_save()) << to_text(report);
  EXPECT_EQ(report.pid, plain.pid());
  EXPECT_THAT(to_text(report), HasSubstr("can be saved"));
}

TEST(CheckProcess, ListsObstaclesOfStateMemoryAndFilesTogether) {
  Child odd([] {
    unsigned long ring = 0;  // an asynchronous I/O context is a mapping
    constexpr int kUserModeOnly = 1;
    const long unusual = ::syscall(SYS_userfaultfd, kUserModeOnly);
    return ::syscall(SYS_io_setup, 1, &ring) == 0 && unusual >= 0 && ::dup2(static_cast<int>(unusual), 200) == 200 &&
           ::unshare(CLONE_NEWUTS) == 0;
  });
  if (!odd.ready()) GTEST_SKIP() << "namespaces are not permitted here";
  const ProcessReport report = check(odd.pid());
  EXPECT_FALSE(report.can_save());
  EXPECT_TRUE(names(report, "uts"));
  EXPECT_TRUE(names(report, "mapping"));
  EXPECT_TRUE(names(report, "userfaultfd"));
}

TEST(CheckProcess, WhatNoPathLeadsToAnyMoreIsNamed) {
  namespace fs = std::filesystem;
  std::string dir = fs::temp_directory_path() / "stasis-check-XXXXXX";
  ASSERT_NE(::mkdtemp(dir.data()), nullptr);
  fs::create_directory(dir + "/cwd");
  fs::copy_file("/bin/sleep", dir + "/program");
  int done[2];
  ASSERT_EQ(::pipe2(done, O_CLOEXEC), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::chdir((dir + "/cwd").c_str()) == 0) ::execl((dir + "/program").c_str(), "program", "1000", nullptr);
    ::_exit(1);
  }
  ::close(done[1]);
  char nothing = 0;
  EXPECT_EQ(::read(done[0], &nothing, 1), 0);  // the end: it runs its program
  ::close(done[0]);
  fs::remove_all(dir);
  const ProcessReport report = check(HostPid(pid));
  EXPECT_TRUE(names(report, "executable " + dir + "/program")) << to_text(report);
  EXPECT_TRUE(names(report, "working directory " + dir + "/cwd")) << to_text(report);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

TEST(CheckProcess, LeavesTheProcessAlone) {
  Child plain;
  check(plain.pid());
  const auto proc = kernel::ProcDir::open(plain.pid());
  EXPECT_EQ(proc->status()->tracer_pid, 0);
  EXPECT_EQ(proc->status()->state, 'S');
}

TEST(CheckProcess, AZombieIsOneObstacle) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(check(HostPid(pid)).obstacles.size(), 1u);
  ::waitpid(pid, nullptr, 0);
}

TEST(CheckProcess, ThatDoesNotExistIsAnError) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ::waitpid(pid, nullptr, 0);
  EXPECT_EQ(check_process(HostPid(pid), {}).error().code(), Errc::kNoSuchProcess);
}

TEST(CheckReport, ShowsNoControlCharactersOfForeignNames) {
  const ProcessReport report{
      .pid = HostPid(7),
      .name = "a\x1b[2Jb",
      .obstacles = {{.pid = HostPid(7), .fd = 3, .object = "/tmp/\n\x07", .why = "it is odd", .help = "rename it"}}};
  const std::string text = to_text(report);
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, Not(HasSubstr("\x07")));
  EXPECT_THAT(text, HasSubstr("process 7 (a\\x1b[2Jb) can't be saved"));
  EXPECT_THAT(text, HasSubstr("fd 3"));
  EXPECT_THAT(text, HasSubstr("rename it"));
  const auto json = to_json(report);
  EXPECT_EQ(json["can_save"], false);
  EXPECT_EQ(json["obstacles"][0]["fd"], 3);
  EXPECT_EQ(json["obstacles"][0]["error"], "unsupported_object");
}

TEST(CheckReport, VerdictFollowsFromTheFeaturesThatAreMissing) {
  KernelReport report{.release = "1.0", .features = {}};
  for (const kernel::Feature& feature : kernel::features()) report.features.push_back({&feature, true, ""});
  EXPECT_TRUE(report.can_save() && report.can_restart());
  auto without = [&](std::initializer_list<std::string_view> missing) {
    KernelReport less = report;
    for (auto& state : less.features) {
      if (std::ranges::find(missing, state.feature->name) != missing.end()) state.available = false;
    }
    return less;
  };
  EXPECT_FALSE(without({"ptrace"}).can_save());
  EXPECT_FALSE(without({"set_mm_map"}).can_restart());
  EXPECT_TRUE(without({"clone3_set_tid", "user_namespace"}).can_restart());
  EXPECT_FALSE(without({"clone3_set_tid", "user_namespace", "privileged_namespaces"}).can_restart());
  EXPECT_TRUE(without({"pagemap_scan"}).can_save());
  EXPECT_THAT(to_text(without({"ptrace"})), HasSubstr("can not be saved"));
}

TEST(CheckKernel, ReportsEveryFeatureOfTheTable) {
  const KernelReport report = check_kernel();
  EXPECT_EQ(report.features.size(), kernel::features().size());
  EXPECT_EQ(to_json(report)["features"].size(), kernel::features().size());
  EXPECT_FALSE(report.release.empty());
}

}  // namespace
}  // namespace stasis
