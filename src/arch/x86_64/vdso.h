// SPDX-License-Identifier: Apache-2.0
// The vdso: code that the kernel maps into every process, with data pages ([vvar], [vvar_vclock]) below it.
//
// It is recreated at its old address by arch_prctl(ARCH_MAP_VDSO_64, lowest data address) on a kernel whose vdso is the
// same; so an image holds its bytes and build-id for comparison.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernel/proc_maps.h"
#include "kernel/process_memory.h"
#include "stasis/result.h"

namespace stasis::arch {

// arch_prctl(2) operation, arch/x86/include/uapi/asm/prctl.h.
inline constexpr int kArchMapVdso64 = 0x2003;

// Addresses in bytes, ends exclusive. A process that has unmapped its vdso has none.
struct VdsoPlace {
  std::uint64_t data_start = 0;  // the lowest [vvar...], or start where there is none: the argument of kArchMapVdso64
  std::uint64_t start = 0;       // of [vdso]
  std::uint64_t end = 0;
};

// Nothing when there is no [vdso]. Only data areas that adjoin it (or each other) belong to it; a process that moved
// them apart has a data_start of `start`, which can't be recreated: kUnsupportedMemory.
Result<std::optional<VdsoPlace>> find_vdso(const std::vector<kernel::Vma>& vmas);

// The code as mapped in another process.
Result<std::vector<std::byte>> read_vdso(const kernel::ProcessMemory& memory, const VdsoPlace& place);
// The code as mapped here. Empty when this process has none.
Result<std::vector<std::byte>> own_vdso();

// The GNU build-id; nothing when there is none or the bytes are no ELF image. Any bytes are safe.
std::optional<std::vector<std::byte>> vdso_build_id(std::span<const std::byte> vdso);

// Offset of a `syscall` instruction, behind the headers. Nothing when there is none.
std::optional<std::size_t> find_syscall_instruction(std::span<const std::byte> vdso);

}  // namespace stasis::arch
