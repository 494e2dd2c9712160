// SPDX-License-Identifier: Apache-2.0
// What the CPU offers to programs, and whether a program saved on one CPU can go on on another.
//
// Programs look at cpuid once and keep the answers (glibc's choice of memcpy, a JIT's code), so a restart needs every
// user-visible feature of the old machine, and every extended state (XCR0) at the same place in the XSAVE area.
// Source: Intel SDM vol. 2 CPUID and vol. 1 chapter 13; AMD64 APM vol. 3 appendix E; kernel cpufeatures.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace stasis::arch {

// One answer of the cpuid instruction.
struct CpuidAnswer {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  std::array<std::uint32_t, 4> registers{};  // eax, ebx, ecx, edx
  bool operator==(const CpuidAnswer&) const = default;
};

struct CpuFeatures {
  std::uint64_t xcr0 = 0;  // states that the kernel has enabled; 0 without XSAVE
  std::vector<CpuidAnswer> cpuid;
};

// Of this machine: the leaves that missing_features() looks at, vendor and brand string included.
CpuFeatures cpu_features();

// Names of what a program from a machine like `image` may use and `here` lacks; empty: it can run here. Leaves that an
// image lacks count as empty; `image` is untrusted and may hold anything.
std::vector<std::string> missing_features(const CpuFeatures& image, const CpuFeatures& here);

// "Intel(R) Xeon(R) ...", trimmed and made printable; "unknown CPU" without a brand string.
std::string cpu_brand(const CpuFeatures& features);

}  // namespace stasis::arch
