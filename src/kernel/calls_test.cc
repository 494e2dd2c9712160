// SPDX-License-Identifier: Apache-2.0
// pidfd, kcmp, clone3, descriptors, robust list, STASIS_WITHOUT.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/clone3.h"
#include "kernel/descriptors.h"
#include "kernel/kcmp.h"
#include "kernel/pidfd.h"
#include "kernel/proc_dir.h"
#include "kernel/raw.h"
#include "kernel/robust_list.h"
#include "kernel/without.h"

namespace stasis::kernel {
namespace {

using testing::ElementsAre;

HostPid self() { return HostPid(::getpid()); }

void sleep_for_ever(void*) noexcept {
  for (;;) raw_no_fault(SYS_pause);
}

void leave_with_seven(void*) noexcept { raw_no_fault(SYS_exit_group, 7); }

TEST(Pidfd, CopiesADescriptorOutOfAnotherProcess) {
  const UniqueFd event(::eventfd(5, EFD_CLOEXEC));
  const auto child = clone3_process(0, SIGCHLD, {}, sleep_for_ever, nullptr);
  ASSERT_TRUE(child) << child.error().to_string();
  const auto pidfd = pidfd_open(*child);
  ASSERT_TRUE(pidfd);
  const auto copy = pidfd_getfd(pidfd->get(), event.get());
  EXPECT_EQ(pidfd_getfd(pidfd->get(), 987654).error().code(), Errc::kNotFound);
  EXPECT_TRUE(pidfd_send_signal(pidfd->get(), SIGKILL));
  ASSERT_EQ(::waitpid(child->value(), nullptr, 0), child->value());
  ASSERT_TRUE(copy) << copy.error().to_string();
  std::uint64_t value = 0;
  ASSERT_EQ(::read(copy->get(), &value, sizeof value), static_cast<ssize_t>(sizeof value));
  EXPECT_EQ(value, 5u);
  EXPECT_EQ(::fcntl(copy->get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(pidfd_send_signal(pidfd->get(), 0).error().code(), Errc::kVanished);
  EXPECT_EQ(pidfd_open(*child).error().code(), Errc::kVanished);
}

TEST(Clone3, RunsTheChildFunction) {
  const auto child = clone3_process(0, SIGCHLD, {}, leave_with_seven, nullptr);
  ASSERT_TRUE(child);
  int status = 0;
  ASSERT_EQ(::waitpid(child->value(), &status, 0), child->value());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(Clone3, APidInUseIsSaidToBeTaken) {
  const std::int32_t pids[] = {::getpid()};
  const auto child = clone3_process(0, SIGCHLD, pids, leave_with_seven, nullptr);
  ASSERT_FALSE(child);
  if (child.error().code() == Errc::kNotPermitted) GTEST_SKIP() << "choosing pids is not permitted here";
  EXPECT_EQ(child.error().code(), Errc::kPidTaken);
}

TEST(Kcmp, TellsSharedFromSeparatelyOpenedFiles) {
  if (!kcmp(KcmpType::kVm, self(), self())) GTEST_SKIP() << "no kcmp here";
  const UniqueFd a(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const UniqueFd b(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const UniqueFd a2(::dup(a.get()));
  const UniqueFd b2(::dup(b.get()));
  const FileSlot slots[] = {
      {self(), a.get()}, {self(), b.get()}, {self(), b2.get()}, {self(), a2.get()}, {self(), a.get()}};
  const auto groups = group_open_files(slots);
  ASSERT_TRUE(groups) << groups.error().to_string();
  EXPECT_THAT(*groups, ElementsAre(0, 1, 1, 0, 0));
  const FileSlot missing[] = {{self(), a.get()}, {self(), 987654}};
  EXPECT_EQ(group_open_files(missing).error().code(), Errc::kNotFound);
}

TEST(Kcmp, GroupsManyDescriptionsWhateverTheirOrder) {
  if (!kcmp(KcmpType::kVm, self(), self())) GTEST_SKIP() << "no kcmp here";
  std::vector<UniqueFd> fds;
  std::vector<FileSlot> slots;
  std::vector<std::size_t> expected;
  for (std::size_t i = 0; i < 60; ++i) {
    const bool copy = i % 3 == 2;
    fds.emplace_back(copy ? ::dup(fds[i / 2].get()) : ::open("/dev/null", O_RDONLY | O_CLOEXEC));
    slots.push_back({self(), fds.back().get()});
    expected.push_back(copy ? expected[i / 2] : i);
  }
  EXPECT_EQ(*group_open_files(slots), expected);
}

TEST(Kcmp, ThisProcessSharesItsMemoryWithItself) {
  if (!kcmp(KcmpType::kVm, self(), self())) GTEST_SKIP() << "no kcmp here";
  EXPECT_EQ(*kcmp(KcmpType::kVm, self(), self()), std::partial_ordering::equivalent);
}

TEST(Descriptors, AnonymousFilesCloseOnExecAndRangesAreClosed) {
  auto file = memfd_create("calls_test", 0x10 /* MFD_EXEC, or ignored */);
  ASSERT_TRUE(file) << file.error().to_string();
  EXPECT_EQ(::fcntl(file->get(), F_GETFD), FD_CLOEXEC);
  const int raw_fd = file->release();
  const auto number = static_cast<unsigned>(raw_fd);
  ASSERT_TRUE(close_range(number, number));
  EXPECT_EQ(::fcntl(raw_fd, F_GETFD), -1);
}

TEST(RobustList, IsWhatLibcRegistered) {
  const auto list = get_robust_list(self());
  ASSERT_TRUE(list);
  EXPECT_NE(list->head, 0u);
  EXPECT_EQ(list->length, 24u);
}

TEST(Without, MatchesWholeNamesOnly) {
  EXPECT_TRUE(names_feature("a,pagemap_scan,b", "pagemap_scan"));
  EXPECT_TRUE(names_feature("kcmp", "kcmp"));
  EXPECT_FALSE(names_feature("kcmp_x,xkcmp", "kcmp"));
  EXPECT_FALSE(names_feature("", "kcmp"));
}

}  // namespace
}  // namespace stasis::kernel
