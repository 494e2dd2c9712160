// SPDX-License-Identifier: Apache-2.0
// EnvironmentRecord: the first record of every image. Says where and when it was made, so that a restart can tell
// before it touches anything whether this machine will do (CPU, vdso), and what time has passed (clocks).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "stasis/image.h"
#include "stasis/image_schema.h"

namespace stasis {

// ELF machine numbers (elf.h).
enum class Arch : std::uint16_t { kX86_64 = 62, kAarch64 = 183 };
constexpr auto enum_names(Arch) {
  return std::array{EnumName{Arch::kX86_64, "x86_64"}, EnumName{Arch::kAarch64, "aarch64"}};
}

// One answer of the cpuid instruction.
struct CpuidLeaf {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  std::array<std::uint32_t, 4> registers{};  // eax, ebx, ecx, edx
  static constexpr auto fields() {
    return std::tuple{field<1>("leaf", &CpuidLeaf::leaf, Show::kHex),
                      field<2>("subleaf", &CpuidLeaf::subleaf, Show::kHex),
                      field<3>("registers", &CpuidLeaf::registers, Show::kHex)};
  }
};

struct EnvironmentRecord {
  static constexpr RecordType kType{1};
  static constexpr std::string_view kName = "environment";

  Arch arch = Arch::kX86_64;
  std::uint32_t page_size = 0;   // bytes
  std::string kernel_release;    // uname -r
  std::string boot_id;           // /proc/sys/kernel/random/boot_id; clocks of another boot do not compare
  std::int64_t realtime_ns = 0;  // the three clocks at the freeze, as the program saw them
  std::int64_t monotonic_ns = 0;
  std::int64_t boottime_ns = 0;
  std::uint64_t xcr0 = 0;  // enabled XSAVE features; 0 where the architecture has none
  std::vector<CpuidLeaf> cpuid;
  std::vector<std::byte> vdso;
  std::vector<std::byte> vdso_build_id;
  std::string creator;                    // program and version
  std::int64_t created_ns = 0;            // CLOCK_REALTIME
  std::optional<ImageHash> parent_image;  // image_hash of the image that this one is a difference to
  std::string parent_path;                // where that image lay
  Codec codec = Codec::kNone;             // what was asked for; each chunk states its own
  std::int64_t monotonic_offset_ns = 0;   // how far its clocks were ahead of the host's (man 7 time_namespaces)
  std::int64_t boottime_offset_ns = 0;

  static constexpr auto fields() {
    using E = EnvironmentRecord;
    return std::tuple{field<1>("arch", &E::arch),
                      field<2>("page_size", &E::page_size),
                      field<3>("kernel_release", &E::kernel_release, MaxLength{256}),
                      field<4>("boot_id", &E::boot_id, MaxLength{64}),
                      field<5>("realtime_ns", &E::realtime_ns),
                      field<6>("monotonic_ns", &E::monotonic_ns),
                      field<7>("boottime_ns", &E::boottime_ns),
                      field<8>("xcr0", &E::xcr0, Show::kHex),
                      field<9>("cpuid", &E::cpuid, MaxLength{1024}),
                      field<10>("vdso", &E::vdso, MaxLength{1 << 20}),
                      field<11>("vdso_build_id", &E::vdso_build_id, MaxLength{64}),
                      field<12>("creator", &E::creator, MaxLength{256}),
                      field<13>("created_ns", &E::created_ns),
                      field<14>("parent_image", &E::parent_image),
                      field<15>("parent_path", &E::parent_path, MaxLength{4096}),
                      field<16>("codec", &E::codec),
                      field<17>("monotonic_offset_ns", &E::monotonic_offset_ns),
                      field<18>("boottime_offset_ns", &E::boottime_offset_ns)};
  }

  // What needs no kernel interface beyond libc: everything but xcr0, cpuid, vdso, parent and codec.
  static EnvironmentRecord of_this_machine();
};

}  // namespace stasis
