// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/xstate.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace stasis::arch {
namespace {

constexpr std::size_t kLegacySize = 512;
constexpr std::size_t kHeaderSize = 64;
constexpr std::size_t kSoftwareBytesOffset = 464;  // struct _fpx_sw_bytes inside the legacy area
constexpr std::uint32_t kMagic1 = 0x46505853;      // FP_XSTATE_MAGIC1
constexpr std::uint32_t kMagic2 = 0x46505845;      // FP_XSTATE_MAGIC2

// struct _fpx_sw_bytes of arch/x86/include/uapi/asm/sigcontext.h
struct SoftwareBytes {
  std::uint32_t magic1;
  std::uint32_t extended_size;
  std::uint64_t xfeatures;
  std::uint32_t xstate_size;
  std::uint32_t padding[7];
};
static_assert(sizeof(SoftwareBytes) == 48);

// Where each component of the standard format ends. A cpuid instruction is dear in a virtual machine: asked once, and
// only for what is enabled.
std::array<std::size_t, 63> component_ends() {
  std::array<std::size_t, 63> ends{};
  const std::uint64_t enabled = enabled_xfeatures();
  for (unsigned bit = 2; bit < ends.size(); ++bit) {
    if (!(enabled >> bit & 1)) continue;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    __cpuid_count(0xd, bit, eax, ebx, ecx, edx);
    ends[bit] = std::size_t{ebx} + eax;
  }
  return ends;
}

}  // namespace

std::uint64_t enabled_xfeatures() {
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

std::size_t xstate_size(std::uint64_t features) {
  static const std::array<std::size_t, 63> ends = component_ends();
  std::size_t size = kLegacySize + kHeaderSize;
  for (unsigned bit = 2; bit < ends.size(); ++bit) {
    if (features >> bit & 1) size = std::max(size, ends[bit]);
  }
  return size;
}

std::uint64_t xstate_in_use(std::span<const std::byte> area) {
  std::uint64_t bits = 0;
  if (area.size() >= kLegacySize + sizeof bits) std::memcpy(&bits, area.data() + kLegacySize, sizeof bits);
  return bits;
}

Result<std::vector<std::byte>> xstate_for_sigframe(std::span<const std::byte> area) {
  const std::uint64_t features = enabled_xfeatures() & (~kXfeatureTileData | xstate_in_use(area));
  const std::size_t size = xstate_size(features);
  if (area.size() < size) return Error(Errc::kInternal, "extended state is shorter than its features");
  std::vector<std::byte> frame(size + sizeof kMagic2);
  std::memcpy(frame.data(), area.data(), size);
  const SoftwareBytes software{.magic1 = kMagic1,
                               .extended_size = static_cast<std::uint32_t>(frame.size()),
                               .xfeatures = features,
                               .xstate_size = static_cast<std::uint32_t>(size),
                               .padding = {}};
  std::memcpy(frame.data() + kSoftwareBytesOffset, &software, sizeof software);
  std::memcpy(frame.data() + size, &kMagic2, sizeof kMagic2);
  return frame;
}

}  // namespace stasis::arch
