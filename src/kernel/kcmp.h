// SPDX-License-Identifier: Apache-2.0
// kcmp(2): do two tasks share a kernel object? (CONFIG_KCMP)
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

// enum kcmp_type of include/uapi/linux/kcmp.h.
enum class KcmpType : int {
  kFile = 0,
  kVm = 1,
  kFiles = 2,
  kFs = 3,
  kSighand = 4,
  kIo = 5,
  kSysvSem = 6,
  kEpollTarget = 7
};

// Orders two objects of the same type; the order is stable until the next boot and means nothing else. `unordered` says
// that they differ, without an order. Errors: a task is gone: kVanished; a descriptor is not open: kNotFound; no ptrace
// rights: kNotPermitted; the kernel has no kcmp: kKernelFeature.
Result<std::partial_ordering> kcmp(KcmpType type, HostPid a, HostPid b, std::uint64_t index_a = 0,
                                   std::uint64_t index_b = 0);

// Is descriptor `fd` of `task` the file behind entry (target_fd, the offset-th of that number) of the epoll set
// `epoll_fd` of `owner`? Offset counts entries whose number was reused.
Result<bool> kcmp_epoll_target(HostPid task, int fd, HostPid owner, int epoll_fd, int target_fd, std::uint32_t offset);

// One descriptor of one process.
struct FileSlot {
  HostPid pid;
  int fd = -1;
};

// For each slot the index of the first slot with the same open file description (dup, fork, SCM_RIGHTS). Takes
// n log n calls; group by device and inode first where there are many.
Result<std::vector<std::size_t>> group_open_files(std::span<const FileSlot> slots);

}  // namespace stasis::kernel
