// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/wait_note.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace stasis::arch {
namespace {

using std::chrono::nanoseconds;

TEST(WaitNote, ComesBackWithNumberAndNearlyTheTime) {
  for (const std::int64_t ns :
       {0LL, 999LL, 1000LL, 131'071'000LL, 131'072'000LL, 1'234'567'890'123LL, 8LL * 365 * 86400 * 1'000'000'000}) {
    const std::uint64_t value = with_note(SYS_restart_syscall, {.call = 2, .waited = nanoseconds(ns)});
    EXPECT_EQ(static_cast<std::int32_t>(value), SYS_restart_syscall);
    const auto note = note_in(value);
    ASSERT_TRUE(note);
    EXPECT_EQ(note->call, 2u);
    EXPECT_LE(note->waited.count(), ns);
    EXPECT_GE(note->waited.count(), ns - ns / 125'000 - 1000);
  }
}

TEST(WaitNote, ATimeBelowZeroIsNone) {
  EXPECT_EQ(note_in(with_note(1, {.waited = nanoseconds(-5)}))->waited.count(), 0);
}

TEST(WaitNote, ATimeOfAnAgeIsCut) {
  const auto age = std::chrono::hours(24 * 365 * 200);
  EXPECT_GT(note_in(with_note(1, {.call = 1, .waited = age}))->waited, std::chrono::hours(24 * 365 * 8));
  EXPECT_EQ(note_in(with_note(1, {.call = 1, .waited = age}))->call, 1u);
}

TEST(WaitNote, NoNoteIsReadOutOfPlainNumbers) {
  EXPECT_FALSE(note_in(SYS_poll));
  EXPECT_FALSE(note_in(~std::uint64_t{0}));
  EXPECT_TRUE(note_in(std::uint64_t{0x5affffff} << 32)) << "and every value is a time";
}

TEST(WaitNote, TheKernelSeesTheNumberAlone) {
  ASSERT_TRUE(wait_notes_work());
  const auto number = static_cast<long>(with_note(SYS_getppid, {.call = 3, .waited = std::chrono::hours(3)}));
  EXPECT_EQ(::syscall(number), ::getppid());
}

TEST(WaitNote, ARestartIsTheOneThatTheKernelWouldMake) {
  Registers regs{};
  regs.rip = 0x1002;
  regs.orig_rax = SYS_poll;
  set_syscall_result(regs, kErestartBlock);
  restart_with_note(regs, {.call = 1, .waited = std::chrono::seconds(2)});
  EXPECT_EQ(regs.rip, 0x1000u);
  EXPECT_EQ(static_cast<std::int32_t>(regs.rax), SYS_restart_syscall);
  EXPECT_EQ(interrupted_syscall(regs), -1);
  EXPECT_EQ(note_in(regs.rax)->waited, std::chrono::seconds(2));
}

TEST(WaitNote, ARestartThatDidNotComeAboutIsSeenAsAwaited) {
  Registers regs{};
  regs.rip = 0x1002;
  regs.orig_rax = SYS_clock_nanosleep;
  set_syscall_result(regs, kErestartBlock);
  restart_with_note(regs, {.call = 2, .waited = std::chrono::seconds(2)});
  undo_restart_with_note(regs);
  EXPECT_EQ(regs.rip, 0x1002u);
  EXPECT_EQ(syscall_result(regs), kErestartBlock);
  EXPECT_TRUE(awaits_restart(regs));
  ASSERT_TRUE(wait_note(regs));
  EXPECT_EQ(wait_note(regs)->call, 2u);
  const Registers awaited = regs;
  undo_restart_with_note(regs);  // nothing more to undo
  EXPECT_EQ(std::memcmp(&regs, &awaited, sizeof regs), 0);
}

TEST(WaitNote, DoesNotDisturbWhatTellsACallByItsNumber) {
  Registers regs{};
  regs.orig_rax = with_note(SYS_epoll_wait, {.waited = std::chrono::seconds(1)});
  EXPECT_EQ(interrupted_syscall(regs), SYS_epoll_wait);
  EXPECT_TRUE(wait_note(regs));
  regs.rax = static_cast<std::uint64_t>(kErestartNoHand);
  EXPECT_TRUE(awaits_restart(regs));
}

}  // namespace
}  // namespace stasis::arch
