// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/vdso.h"

#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "kernel/proc_dir.h"

namespace stasis::arch {
namespace {

using kernel::parse_maps;

TEST(Vdso, IsFoundWithTheDataBelowIt) {
  const auto vmas = *parse_maps(
      "1000-5000 r--p 0 00:00 0 [vvar]\n5000-7000 r--p 0 00:00 0 [vvar_vclock]\n7000-9000 r-xp 0 00:00 0 [vdso]\n");
  const auto place = find_vdso(vmas);
  ASSERT_TRUE(place && *place);
  EXPECT_EQ((*place)->data_start, 0x1000u);
  EXPECT_EQ((*place)->start, 0x7000u);
  EXPECT_EQ((*place)->end, 0x9000u);
}

TEST(Vdso, AProcessMayHaveNone) { EXPECT_FALSE(find_vdso(*parse_maps("1000-5000 r--p 0 00:00 0 \n"))->has_value()); }

TEST(Vdso, AFileOfThatNameIsNotTheVdso) {
  EXPECT_FALSE(find_vdso(*parse_maps("1000-5000 r-xp 0 00:01 7 [vdso]\n"))->has_value());
}

TEST(Vdso, DataThatWasMovedAwayIsRefused) {
  const auto place = find_vdso(*parse_maps("1000-5000 r--p 0 00:00 0 [vvar]\n7000-9000 r-xp 0 00:00 0 [vdso]\n"));
  ASSERT_FALSE(place);
  EXPECT_EQ(place.error().code(), Errc::kUnsupportedMemory);
}

TEST(Vdso, OurOwnIsReadHereAndFromOutsideAlike) {
  const auto here = own_vdso();
  ASSERT_TRUE(here) << here.error().to_string();
  const auto proc = kernel::ProcDir::open(HostPid(::getpid()));
  const auto place = find_vdso(*proc->maps());
  ASSERT_TRUE(place && *place);
  EXPECT_EQ((*place)->start, ::getauxval(AT_SYSINFO_EHDR));
  const auto memory = kernel::ProcessMemory::open(*proc);
  ASSERT_TRUE(memory);
  EXPECT_EQ(read_vdso(*memory, **place), *here);
}

TEST(Vdso, OurOwnHasABuildIdAndASystemCall) {
  const auto code = own_vdso();
  ASSERT_TRUE(code);
  const auto id = vdso_build_id(*code);
  ASSERT_TRUE(id);
  EXPECT_GE(id->size(), 8u);
  const auto at = find_syscall_instruction(*code);
  ASSERT_TRUE(at);
  EXPECT_EQ((*code)[*at], std::byte{0x0f});
  EXPECT_EQ((*code)[*at + 1], std::byte{0x05});
}

TEST(Vdso, CutShortOrGarbledCodeIsSafeToSearch) {
  const auto code = own_vdso();
  ASSERT_TRUE(code);
  for (std::size_t cut = 0; cut < std::min<std::size_t>(code->size(), 2048); ++cut) {
    (void)vdso_build_id(std::span(*code).first(cut));
    (void)find_syscall_instruction(std::span(*code).first(cut));
  }
  for (std::size_t i = 0; i < 1024; ++i) {
    auto garbled = *code;
    garbled[i] = ~garbled[i];
    (void)vdso_build_id(garbled);
    (void)find_syscall_instruction(garbled);
  }
  EXPECT_FALSE(vdso_build_id({}));
  EXPECT_FALSE(find_syscall_instruction({}));
}

}  // namespace
}  // namespace stasis::arch
