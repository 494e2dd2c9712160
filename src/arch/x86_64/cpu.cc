// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/cpu.h"

#include <cpuid.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace stasis::arch {
namespace {

enum Register : std::uint8_t { kEax, kEbx, kEcx, kEdx };

// A feature that programs use directly. What only the kernel uses (PCID, SMEP, VMX, ...) is not here, nor what programs
// can't tell is missing (speculation controls).
struct Feature {
  std::uint32_t leaf;
  std::uint32_t subleaf;
  Register reg;
  std::uint8_t bit;
  std::string_view name;
};

// clang-format off
constexpr Feature kFeatures[] = {
    {1, 0, kEcx, 0, "sse3"}, {1, 0, kEcx, 1, "pclmulqdq"}, {1, 0, kEcx, 9, "ssse3"}, {1, 0, kEcx, 12, "fma"},
    {1, 0, kEcx, 13, "cx16"}, {1, 0, kEcx, 19, "sse4_1"}, {1, 0, kEcx, 20, "sse4_2"}, {1, 0, kEcx, 22, "movbe"},
    {1, 0, kEcx, 23, "popcnt"}, {1, 0, kEcx, 25, "aes"}, {1, 0, kEcx, 27, "osxsave"}, {1, 0, kEcx, 28, "avx"},
    {1, 0, kEcx, 29, "f16c"}, {1, 0, kEcx, 30, "rdrand"},
    {1, 0, kEdx, 0, "fpu"}, {1, 0, kEdx, 4, "tsc"}, {1, 0, kEdx, 8, "cx8"}, {1, 0, kEdx, 15, "cmov"},
    {1, 0, kEdx, 19, "clflush"}, {1, 0, kEdx, 23, "mmx"}, {1, 0, kEdx, 24, "fxsr"}, {1, 0, kEdx, 25, "sse"},
    {1, 0, kEdx, 26, "sse2"},
    {7, 0, kEbx, 0, "fsgsbase"}, {7, 0, kEbx, 3, "bmi1"}, {7, 0, kEbx, 4, "hle"}, {7, 0, kEbx, 5, "avx2"},
    {7, 0, kEbx, 8, "bmi2"}, {7, 0, kEbx, 9, "erms"}, {7, 0, kEbx, 11, "rtm"}, {7, 0, kEbx, 14, "mpx"},
    {7, 0, kEbx, 16, "avx512f"}, {7, 0, kEbx, 17, "avx512dq"}, {7, 0, kEbx, 18, "rdseed"}, {7, 0, kEbx, 19, "adx"},
    {7, 0, kEbx, 21, "avx512ifma"}, {7, 0, kEbx, 23, "clflushopt"}, {7, 0, kEbx, 24, "clwb"},
    {7, 0, kEbx, 26, "avx512pf"}, {7, 0, kEbx, 27, "avx512er"}, {7, 0, kEbx, 28, "avx512cd"}, {7, 0, kEbx, 29, "sha_ni"},
    {7, 0, kEbx, 30, "avx512bw"}, {7, 0, kEbx, 31, "avx512vl"},
    {7, 0, kEcx, 0, "prefetchwt1"}, {7, 0, kEcx, 1, "avx512vbmi"}, {7, 0, kEcx, 4, "ospke"}, {7, 0, kEcx, 5, "waitpkg"},
    {7, 0, kEcx, 6, "avx512_vbmi2"}, {7, 0, kEcx, 7, "shstk"}, {7, 0, kEcx, 8, "gfni"}, {7, 0, kEcx, 9, "vaes"},
    {7, 0, kEcx, 10, "vpclmulqdq"}, {7, 0, kEcx, 11, "avx512_vnni"}, {7, 0, kEcx, 12, "avx512_bitalg"},
    {7, 0, kEcx, 14, "avx512_vpopcntdq"}, {7, 0, kEcx, 22, "rdpid"}, {7, 0, kEcx, 23, "kl"}, {7, 0, kEcx, 25, "cldemote"},
    {7, 0, kEcx, 27, "movdiri"}, {7, 0, kEcx, 28, "movdir64b"}, {7, 0, kEcx, 29, "enqcmd"},
    {7, 0, kEdx, 2, "avx512_4vnniw"}, {7, 0, kEdx, 3, "avx512_4fmaps"}, {7, 0, kEdx, 4, "fsrm"}, {7, 0, kEdx, 5, "uintr"},
    {7, 0, kEdx, 8, "avx512_vp2intersect"}, {7, 0, kEdx, 14, "serialize"}, {7, 0, kEdx, 16, "tsxldtrk"},
    {7, 0, kEdx, 20, "ibt"}, {7, 0, kEdx, 22, "amx_bf16"}, {7, 0, kEdx, 23, "avx512_fp16"}, {7, 0, kEdx, 24, "amx_tile"},
    {7, 0, kEdx, 25, "amx_int8"},
    {7, 1, kEax, 0, "sha512"}, {7, 1, kEax, 1, "sm3"}, {7, 1, kEax, 2, "sm4"}, {7, 1, kEax, 3, "rao_int"},
    {7, 1, kEax, 4, "avx_vnni"}, {7, 1, kEax, 5, "avx512_bf16"}, {7, 1, kEax, 7, "cmpccxadd"}, {7, 1, kEax, 10, "fzrm"},
    {7, 1, kEax, 11, "fsrs"}, {7, 1, kEax, 12, "fsrc"}, {7, 1, kEax, 21, "amx_fp16"}, {7, 1, kEax, 22, "hreset"},
    {7, 1, kEax, 23, "avx_ifma"}, {7, 1, kEax, 31, "movrs"},
    {7, 1, kEdx, 4, "avx_vnni_int8"}, {7, 1, kEdx, 5, "avx_ne_convert"}, {7, 1, kEdx, 8, "amx_complex"},
    {7, 1, kEdx, 10, "avx_vnni_int16"}, {7, 1, kEdx, 14, "prefetchi"}, {7, 1, kEdx, 15, "user_msr"},
    {7, 1, kEdx, 19, "avx10"}, {7, 1, kEdx, 21, "apx_f"},
    {0xd, 1, kEax, 0, "xsaveopt"}, {0xd, 1, kEax, 1, "xsavec"}, {0xd, 1, kEax, 2, "xgetbv1"},
    {0x80000001, 0, kEcx, 0, "lahf_lm"}, {0x80000001, 0, kEcx, 5, "abm"}, {0x80000001, 0, kEcx, 6, "sse4a"},
    {0x80000001, 0, kEcx, 7, "misalignsse"}, {0x80000001, 0, kEcx, 8, "3dnowprefetch"}, {0x80000001, 0, kEcx, 11, "xop"},
    {0x80000001, 0, kEcx, 15, "lwp"}, {0x80000001, 0, kEcx, 16, "fma4"}, {0x80000001, 0, kEcx, 21, "tbm"},
    {0x80000001, 0, kEcx, 29, "mwaitx"},
    {0x80000001, 0, kEdx, 22, "mmxext"}, {0x80000001, 0, kEdx, 25, "fxsr_opt"}, {0x80000001, 0, kEdx, 27, "rdtscp"},
    {0x80000001, 0, kEdx, 29, "lm"}, {0x80000001, 0, kEdx, 30, "3dnowext"}, {0x80000001, 0, kEdx, 31, "3dnow"},
    {0x80000008, 0, kEbx, 0, "clzero"}, {0x80000008, 0, kEbx, 4, "rdpru"},
};

// Indexed by bit of XCR0.
constexpr std::string_view kStates[] = {"x87", "SSE", "AVX", "MPX bounds", "MPX control", "AVX-512 mask",
                                        "AVX-512 upper halves", "AVX-512 upper registers", "processor trace", "PKRU",
                                        "PASID", "CET user", "CET kernel", "HDC", "UINTR", "LBR", "HWP",
                                        "AMX tile configuration", "AMX tile data", "APX"};
// clang-format on

constexpr std::uint32_t kStateLeaf = 0xd;
constexpr std::uint32_t kBrandLeaf = 0x80000002;

const CpuidAnswer* find(const CpuFeatures& features, std::uint32_t leaf, std::uint32_t subleaf) {
  const auto answer = std::ranges::find_if(
      features.cpuid, [&](const CpuidAnswer& a) { return a.leaf == leaf && a.subleaf == subleaf; });
  return answer == features.cpuid.end() ? nullptr : &*answer;
}

bool has(const CpuFeatures& features, const Feature& feature) {
  const CpuidAnswer* answer = find(features, feature.leaf, feature.subleaf);
  return answer && (answer->registers[feature.reg] >> feature.bit & 1);
}

void ask(CpuFeatures& features, std::uint32_t leaf, std::uint32_t subleaf = 0) {
  // Answers above the highest leaf are those of another one.
  if (__get_cpuid_max(leaf & 0x80000000, nullptr) < leaf) return;
  CpuidAnswer answer{.leaf = leaf, .subleaf = subleaf};
  auto& r = answer.registers;
  __cpuid_count(leaf, subleaf, r[kEax], r[kEbx], r[kEcx], r[kEdx]);
  features.cpuid.push_back(answer);
}

std::string state_name(unsigned bit) {
  return bit < std::size(kStates) ? std::string(kStates[bit]) : "number " + std::to_string(bit);
}

}  // namespace

CpuFeatures cpu_features() {
  CpuFeatures features;
  ask(features, 0);
  ask(features, 1);
  // The number of the CPU that answers is no feature: APIC id, and the rest of ebx with it.
  for (CpuidAnswer& answer : features.cpuid) {
    if (answer.leaf == 1) answer.registers[kEbx] = 0;
  }
  ask(features, 7, 0);
  ask(features, 7, 1);
  const Feature osxsave{1, 0, kEcx, 27, "osxsave"};
  if (has(features, osxsave)) {
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    features.xcr0 = std::uint64_t{high} << 32 | low;
    ask(features, kStateLeaf, 0);
    ask(features, kStateLeaf, 1);
    for (unsigned bit = 2; bit < 63; ++bit) {
      if (features.xcr0 >> bit & 1) ask(features, kStateLeaf, bit);
    }
  }
  ask(features, 0x80000001);
  for (std::uint32_t i = 0; i < 3; ++i) ask(features, kBrandLeaf + i);
  ask(features, 0x80000008);
  return features;
}

std::vector<std::string> missing_features(const CpuFeatures& image, const CpuFeatures& here) {
  std::vector<std::string> missing;
  for (const Feature& feature : kFeatures) {
    if (has(image, feature) && !has(here, feature)) missing.emplace_back(feature.name);
  }
  for (unsigned bit = 0; bit < 63; ++bit) {
    if (!(image.xcr0 >> bit & 1)) continue;
    if (!(here.xcr0 >> bit & 1)) {
      missing.push_back("extended state " + state_name(bit));
      continue;
    }
    if (bit < 2) continue;  // the legacy area is the same everywhere
    const CpuidAnswer* there = find(image, kStateLeaf, bit);
    const CpuidAnswer* ours = find(here, kStateLeaf, bit);
    if (!there || !ours) continue;
    if (there->registers[kEax] != ours->registers[kEax] || there->registers[kEbx] != ours->registers[kEbx]) {
      missing.push_back("the same place in the XSAVE area for " + state_name(bit));
    }
  }
  return missing;
}

std::string cpu_brand(const CpuFeatures& features) {
  std::string brand;
  for (std::uint32_t i = 0; i < 3; ++i) {
    const CpuidAnswer* answer = find(features, kBrandLeaf + i, 0);
    if (!answer) return "unknown CPU";
    char text[16];
    std::memcpy(text, answer->registers.data(), sizeof text);
    brand.append(text, strnlen(text, sizeof text));
  }
  std::ranges::replace_if(brand, [](char c) { return c < ' ' || c > '~'; }, '?');
  const auto begin = brand.find_first_not_of(' ');
  if (begin == std::string::npos) return "unknown CPU";
  return brand.substr(begin, brand.find_last_not_of(' ') - begin + 1);
}

}  // namespace stasis::arch
