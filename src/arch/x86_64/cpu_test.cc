// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/cpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace stasis::arch {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

CpuidAnswer& leaf(CpuFeatures& features, std::uint32_t number, std::uint32_t subleaf = 0) {
  const auto answer = std::ranges::find_if(
      features.cpuid, [&](const CpuidAnswer& a) { return a.leaf == number && a.subleaf == subleaf; });
  EXPECT_NE(answer, features.cpuid.end());
  return *answer;
}

TEST(Cpu, ThisMachineMissesNothingOfItself) {
  const CpuFeatures here = cpu_features();
  EXPECT_FALSE(here.cpuid.empty());
  EXPECT_THAT(missing_features(here, here), IsEmpty());
}

TEST(Cpu, AnswersDoNotDependOnTheCpuThatGivesThem) {
  CpuFeatures here = cpu_features();
  EXPECT_EQ(leaf(here, 1).registers[1], 0u);
}

TEST(Cpu, AMissingFeatureIsNamed) {
  CpuFeatures here = cpu_features();
  leaf(here, 1).registers[2] &= ~(1u << 20);
  EXPECT_THAT(missing_features(cpu_features(), here), ElementsAre("sse4_2"));
  // The other way round is no problem.
  EXPECT_THAT(missing_features(here, cpu_features()), IsEmpty());
}

TEST(Cpu, ALeafThatIsMissingHereMissesAllItsFeatures) {
  CpuFeatures image, here;
  image.cpuid = {{7, 0, {0, 1u << 5 | 1u << 16, 0, 0}}};
  EXPECT_THAT(missing_features(image, here), ElementsAre("avx2", "avx512f"));
}

TEST(Cpu, AMissingExtendedStateIsNamedEvenIfItIsUnknown) {
  CpuFeatures image, here;
  image.xcr0 = std::uint64_t{1} << 18 | std::uint64_t{1} << 40 | 3;
  here.xcr0 = 3;
  EXPECT_THAT(missing_features(image, here), ElementsAre("extended state AMX tile data", "extended state number 40"));
}

TEST(Cpu, AnotherLayoutOfTheSaveAreaIsNamed) {
  CpuFeatures image, here;
  image.xcr0 = here.xcr0 = 0x203;
  image.cpuid = {{0xd, 9, {8, 0xa80, 0, 0}}};
  here.cpuid = {{0xd, 9, {8, 0x980, 0, 0}}};
  EXPECT_THAT(missing_features(image, here), ElementsAre("the same place in the XSAVE area for PKRU"));
}

TEST(Cpu, ABrandOfAnyBytesIsPrintable) {
  CpuFeatures image;
  EXPECT_EQ(cpu_brand(image), "unknown CPU");
  image.cpuid = {{0x80000002, 0, {0x1b414141, 0, 0, 0}}, {0x80000003, 0, {}}, {0x80000004, 0, {}}};
  EXPECT_EQ(cpu_brand(image), "AAA?");
  EXPECT_FALSE(cpu_brand(cpu_features()).empty());
}

}  // namespace
}  // namespace stasis::arch
