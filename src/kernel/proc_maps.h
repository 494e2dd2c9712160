// SPDX-License-Identifier: Apache-2.0
// /proc/PID/maps and /proc/PID/smaps (man 5 proc, fs/proc/task_mmu.c).
//
// maps costs 0.2 ms for any process; smaps walks all pages (60-105 ms for 4 GiB of 4K pages) and is the only source of
// VmFlags. So smaps is read before a freeze and compared with maps inside it: see same_layout().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/vm_flags.h"
#include "stasis/result.h"

namespace stasis::kernel {

// One virtual memory area. Addresses and sizes in bytes.
struct Vma {
  std::uint64_t start = 0;
  std::uint64_t end = 0;  // exclusive, greater than start
  int prot = 0;           // PROT_READ | PROT_WRITE | PROT_EXEC
  bool shared = false;
  bool deleted = false;  // the path had the suffix " (deleted)", which is taken off
  std::uint32_t dev_major = 0;
  std::uint32_t dev_minor = 0;
  std::uint64_t offset = 0;  // in the file, bytes
  std::uint64_t inode = 0;   // 0: no file
  std::string path;          // unescaped; "[heap]", "[anon:name]", ... for what is no file

  // Only from smaps:
  VmFlags flags;
  std::vector<std::string> unknown_flags;  // VmFlags that this program does not know
  std::uint64_t rss = 0;
  std::uint64_t swap = 0;
  std::uint64_t mapped_elsewhere = 0;  // resident pages that others, or other areas, map as well
  std::uint64_t anonymous = 0;         // resident pages that are private copies
  std::uint64_t anon_huge_pages = 0;
  std::uint64_t locked = 0;
  std::uint64_t kernel_page_size = 0;
  std::uint64_t protection_key = 0;
  bool from_smaps = false;

  std::uint64_t size() const { return end - start; }
  bool readable() const;
  bool writable() const;
  bool executable() const;
  // The first System V segment of an IPC namespace is a file with the inode number 0.
  bool file_backed() const { return inode != 0 || dev_major != 0 || dev_minor != 0; }
  // The kernel's own: [vdso], [vvar], [vvar_vclock], [vsyscall], [uprobes].
  bool kernel_special() const;
  bool contains(std::uint64_t address) const { return address >= start && address < end; }
};

// In ascending order of address. Areas that overlap are kBusy: see kernel/areas_in_motion.h.
Result<std::vector<Vma>> parse_maps(std::string_view text);
// Unknown keys are skipped.
Result<std::vector<Vma>> parse_smaps(std::string_view text);

// Do both hold the same areas: addresses, protection, sharing, file, offset? (What only smaps knows is not compared.)
bool same_layout(const std::vector<Vma>& a, const std::vector<Vma>& b);
// The area that contains `address`, or null. `vmas` as the parsers return them.
const Vma* find_vma(const std::vector<Vma>& vmas, std::uint64_t address);

}  // namespace stasis::kernel
