// SPDX-License-Identifier: Apache-2.0
// VmFlags of /proc/PID/smaps as a set. Names: show_smap_vma_flags() in fs/proc/task_mmu.c and proc(5).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace stasis::kernel {

// The numbers are ours, but stored in images: append only.
enum class VmFlag : std::uint8_t {
  kRead = 0,          // rd
  kWrite = 1,         // wr
  kExec = 2,          // ex
  kShared = 3,        // sh
  kMayRead = 4,       // mr
  kMayWrite = 5,      // mw
  kMayExec = 6,       // me
  kMayShare = 7,      // ms
  kGrowsDown = 8,     // gd
  kPfnMap = 9,        // pf
  kLocked = 10,       // lo
  kIo = 11,           // io
  kSequential = 12,   // sr
  kRandom = 13,       // rr
  kDontCopy = 14,     // dc: MADV_DONTFORK
  kDontExpand = 15,   // de
  kAccount = 16,      // ac
  kNoReserve = 17,    // nr
  kHugeTlb = 18,      // ht
  kSync = 19,         // sf
  kArch1 = 20,        // ar
  kWipeOnFork = 21,   // wf
  kDontDump = 22,     // dd
  kBti = 23,          // bt
  kSoftDirty = 24,    // sd
  kMixedMap = 25,     // mm
  kHugePage = 26,     // hg
  kNoHugePage = 27,   // nh
  kMergeable = 28,    // mg
  kUffdMissing = 29,  // um
  kUffdWp = 30,       // uw
  kMte = 31,          // mt
  kUffdMinor = 32,    // ui
  kShadowStack = 33,  // ss
  kSealed = 34,       // sl
  kDroppable = 35,    // dp
  kGuard = 36,        // gu: may hold guard regions
  kLockOnFault = 37,  // lf
  kNonLinear = 38,    // nl
  kDenyWrite = 39,    // dw
};

// A set of VmFlag; cheap to copy.
class VmFlags {
 public:
  constexpr VmFlags() = default;
  constexpr VmFlags(std::initializer_list<VmFlag> flags) {
    for (const VmFlag flag : flags) set(flag);
  }
  static constexpr VmFlags from_bits(std::uint64_t bits) {
    VmFlags flags;
    flags.bits_ = bits;
    return flags;
  }
  constexpr std::uint64_t bits() const { return bits_; }
  constexpr bool has(VmFlag flag) const { return bits_ >> static_cast<unsigned>(flag) & 1; }
  constexpr void set(VmFlag flag) { bits_ |= std::uint64_t{1} << static_cast<unsigned>(flag); }
  constexpr void clear(VmFlag flag) { bits_ &= ~(std::uint64_t{1} << static_cast<unsigned>(flag)); }
  constexpr bool operator==(const VmFlags&) const = default;

  // The two-letter names in the kernel's spelling, separated by blanks.
  std::string to_string() const;

 private:
  std::uint64_t bits_ = 0;
};

// "rd wr mr": known names into the set; unknown ones are returned in order, so that a caller can refuse them.
struct ParsedVmFlags {
  VmFlags flags;
  std::vector<std::string> unknown;
};
ParsedVmFlags parse_vm_flags(std::string_view names);

}  // namespace stasis::kernel
