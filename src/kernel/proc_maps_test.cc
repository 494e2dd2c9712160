// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_maps.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/areas_in_motion.h"
#include "kernel/proc_dir.h"

namespace stasis::kernel {
namespace {

TEST(Maps, ReadsEveryFieldOfAnArea) {
  const auto vmas = parse_maps(
      "55d0c0a00000-55d0c0a02000 r-xp 00002000 fe:01 1048592                    /usr/bin/my cat\n"
      "7f0000000000-7f0000001000 rw-s 00000000 00:05 1024                       /dev/zero (deleted)\n"
      "7f0000001000-7f0000002000 ---p 00000000 00:00 0 \n");
  ASSERT_TRUE(vmas);
  ASSERT_EQ(vmas->size(), 3u);
  const Vma& a = (*vmas)[0];
  EXPECT_EQ(a.start, 0x55d0c0a00000u);
  EXPECT_EQ(a.end, 0x55d0c0a02000u);
  EXPECT_EQ(a.prot, PROT_READ | PROT_EXEC);
  EXPECT_FALSE(a.shared);
  EXPECT_EQ(a.offset, 0x2000u);
  EXPECT_EQ(a.dev_major, 0xfeu);
  EXPECT_EQ(a.dev_minor, 1u);
  EXPECT_EQ(a.inode, 1048592u);
  EXPECT_EQ(a.path, "/usr/bin/my cat");
  EXPECT_FALSE(a.deleted);
  EXPECT_TRUE((*vmas)[1].deleted);
  EXPECT_TRUE((*vmas)[1].shared);
  EXPECT_EQ((*vmas)[1].path, "/dev/zero");
  EXPECT_EQ((*vmas)[2].prot, 0);
  EXPECT_EQ((*vmas)[2].path, "");
}

TEST(Maps, UnescapesNewlinesInPaths) {
  const auto vmas = parse_maps("1000-2000 r--p 00000000 00:01 7                          /tmp/a\\012b\n");
  ASSERT_TRUE(vmas);
  EXPECT_EQ((*vmas)[0].path, "/tmp/a\nb");
}

TEST(Maps, KeepsTheNameOfAnAnonymousAreaThatSaysDeleted) {
  const auto vmas = parse_maps("1000-2000 r--p 00000000 00:00 0                          [anon:x (deleted)]\n");
  ASSERT_TRUE(vmas);
  EXPECT_FALSE((*vmas)[0].deleted);
  EXPECT_EQ((*vmas)[0].path, "[anon:x (deleted)]");
}

TEST(Maps, TheFirstSystemVSegmentOfANamespaceIsAFile) {
  const auto vmas = parse_maps("1000-2000 rw-s 00000000 00:01 0                          /SYSV00000000 (deleted)\n");
  ASSERT_TRUE(vmas);
  EXPECT_TRUE((*vmas)[0].file_backed());
  EXPECT_TRUE((*vmas)[0].deleted);
  EXPECT_EQ((*vmas)[0].path, "/SYSV00000000");
}

TEST(Maps, RefusesWhatIsMalformed) {
  for (const char* text : {
           "1000 r--p 00000000 00:00 0\n",                    // no range
           "1000-zzz r--p 00000000 00:00 0\n",                // no number
           "2000-1000 r--p 00000000 00:00 0\n",               // backwards
           "1000-1000 r--p 00000000 00:00 0\n",               // empty
           "1000-2000 r--q 00000000 00:00 0\n",               // permission
           "1000-2000 rr-p 00000000 00:00 0\n",               // permission in a wrong place
           "1000-2000 r--p 00000000 0000 0\n",                // device
           "1000-2000 r--p 00000000 00:00\n",                 // cut short
           "1000-11112222333344445 r--p 00000000 00:00 0\n",  // too large
           "\n",
       }) {
    EXPECT_FALSE(parse_maps(text)) << text;
  }
  EXPECT_TRUE(parse_maps("")->empty());
}

TEST(Maps, AreasThatOverlapWereChangingWhileTheyWereListed) {
  const std::string_view text = "1000-2000 r--p 0 00:00 0\n1fff-3000 r--p 0 00:00 0\n";
  EXPECT_EQ(parse_maps(text).error().code(), Errc::kBusy);
  EXPECT_EQ(parse_smaps(text).error().code(), Errc::kBusy);
}

TEST(Maps, AreReadAgainUntilNothingOverlaps) {
  int left = 3;
  const auto read = [&]() -> Result<std::string> {
    return std::string(left-- > 0 ? "1000-3000 r--p 0 00:00 0\n1000-4000 r--p 0 00:00 0\n"
                                  : "1000-4000 r--p 0 00:00 0\n");
  };
  const auto vmas = parse_areas_in_motion(parse_maps, read);
  ASSERT_TRUE(vmas) << vmas.error().to_string();
  EXPECT_EQ(vmas->size(), 1U);
  left = 1000;
  EXPECT_EQ(parse_areas_in_motion(parse_maps, read).error().code(), Errc::kBusy);
}

TEST(Smaps, ReadsFlagsAndSizes) {
  const auto vmas = parse_smaps(
      "1000-3000 rw-p 00000000 00:00 0                          [heap]\n"
      "Size:                  8 kB\nKernelPageSize:        4 kB\nRss:                   4 kB\n"
      "Anonymous:             4 kB\nSwap:                  0 kB\nSomethingNew:  whatever\n"
      "ProtectionKey:         3\nVmFlags: rd wr mr mw me ac sl zz \n"
      "4000-5000 r--p 00000000 00:00 0 \nVmFlags: \n");
  ASSERT_TRUE(vmas);
  ASSERT_EQ(vmas->size(), 2u);
  const Vma& heap = (*vmas)[0];
  EXPECT_TRUE(heap.from_smaps);
  EXPECT_EQ(heap.rss, 4096u);
  EXPECT_EQ(heap.anonymous, 4096u);
  EXPECT_EQ(heap.kernel_page_size, 4096u);
  EXPECT_EQ(heap.protection_key, 3u);
  EXPECT_EQ(heap.flags, (VmFlags{VmFlag::kRead, VmFlag::kWrite, VmFlag::kMayRead, VmFlag::kMayWrite, VmFlag::kMayExec,
                                 VmFlag::kAccount, VmFlag::kSealed}));
  EXPECT_EQ(heap.unknown_flags, std::vector<std::string>{"zz"});
  EXPECT_EQ((*vmas)[1].flags, VmFlags());
}

TEST(Smaps, RefusesDetailsWithoutAnAreaAndSizesWithoutAUnit) {
  EXPECT_FALSE(parse_smaps("Rss: 4 kB\n"));
  EXPECT_FALSE(parse_smaps("1000-3000 rw-p 0 00:00 0\nRss: 4\n"));
  EXPECT_FALSE(parse_smaps("1000-3000 rw-p 0 00:00 0\nRss: 99999999999999999999 kB\n"));
  EXPECT_FALSE(parse_smaps("1000-3000 rw-p 0 00:00 0\nno colon\n"));
}

TEST(Smaps, AgreesWithMapsOnThisProcessAndKnowsAllItsFlags) {
  const auto proc = ProcDir::open(HostPid(::getpid()));
  ASSERT_TRUE(proc) << proc.error().to_string();
  const auto smaps = proc->smaps();
  ASSERT_TRUE(smaps) << smaps.error().to_string();
  const auto* code = find_vma(*smaps, reinterpret_cast<std::uint64_t>(&parse_maps));
  ASSERT_NE(code, nullptr);
  EXPECT_TRUE(code->executable());
  EXPECT_TRUE(code->flags.has(VmFlag::kExec));
  for (const Vma& vma : *smaps) EXPECT_TRUE(vma.unknown_flags.empty()) << vma.unknown_flags.front();
  EXPECT_EQ(find_vma(*smaps, 1), nullptr);
}

TEST(VmFlags, NamesRoundTrip) {
  const std::string names = "rd ex mr mw me dd nh sl gu";
  EXPECT_EQ(parse_vm_flags(names).flags.to_string(), names);
}

TEST(SameLayout, SeesAChangedProtection) {
  const auto a = *parse_maps("1000-2000 r--p 0 00:00 0\n");
  const auto b = *parse_maps("1000-2000 rw-p 0 00:00 0\n");
  EXPECT_TRUE(same_layout(a, a));
  EXPECT_FALSE(same_layout(a, b));
  EXPECT_FALSE(same_layout(a, {}));
}

}  // namespace
}  // namespace stasis::kernel
