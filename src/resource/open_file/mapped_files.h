// SPDX-License-Identifier: Apache-2.0
// Files that the tree maps and that no path leads to: shared anonymous memory, memfds, System V segments, deleted
// files.
//
// /proc/PID/map_files opens them, but only for root (CAP_CHECKPOINT_RESTORE in the first user namespace). What is plain
// memory can be read through the mappings instead, by anybody who may trace the process.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernel/proc_dir.h"
#include "resource/open_file/gather.h"
#include "resource/open_file/open_file.h"

namespace stasis {

// What a file without a path is, by what /proc/PID/maps calls it.
enum class MemoryOrigin : std::uint8_t {
  kMemFd = 0,      // memfd_create(2)
  kAnonymous = 1,  // MAP_SHARED | MAP_ANONYMOUS, or /dev/zero mapped shared
  kSystemV = 2,    // shmget(2)
};
// `link`: with " (deleted)", as in /proc. Nullopt: a file of a file system.
std::optional<MemoryOrigin> memory_origin(std::string_view link);
// The link as a descriptor of the file would have it; empty for a mapping of something else: memory of its own, a file
// with a path, a kernel facility.
std::string nameless_link(const kernel::Vma& vma);

// Adds the mappings of one process to the table, and to `mapped_writable` what they can write.
Result<void> gather_mapped_files(OpenFileTable& table, const kernel::ProcDir& proc, std::span<const kernel::Vma> vmas,
                                 Hold hold);
// Finds processes outside that share what the processes of the tree map: reads the mappings of the whole system, which
// takes some 0.1 ms for each process.
Result<OutsideHolders> find_outside_mappings(std::span<const ProcessHandle> processes);
// The same for what the table does not know yet.
Result<void> look_for_outside_mappings(OpenFileTable& table, std::span<const ProcessHandle> processes);
// Why a file can't be saved to which no descriptor leads. REQUIRES: inode.mapped.
std::optional<Obstacle> mapped_file_obstacle(const OpenInode& inode, const OpenFileTable& tree);

}  // namespace stasis
