// SPDX-License-Identifier: Apache-2.0
#include "kernel/kcmp.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>

#include "kernel/raw.h"
#include "kernel/without.h"

namespace stasis::kernel {
namespace {

long call(KcmpType type, HostPid a, HostPid b, std::uint64_t index_a, std::uint64_t index_b) {
  if (without("kcmp")) {
    errno = ENOSYS;
    return -1;
  }
  return raw("kcmp", SYS_kcmp, a.value(), b.value(), static_cast<int>(type), index_a, index_b);
}

Error failed(HostPid a, HostPid b) {
  const int code = errno;
  Error error = Error::from_errno(code, fmt::format("compare objects of tasks {} and {}", a.value(), b.value()));
  if (code == EBADF || code == ENOENT) return std::move(error).with_code(Errc::kNotFound);
  if (code != ENOSYS) return error;
  return std::move(error).with_code(Errc::kKernelFeature).with_help("a kernel with CONFIG_KCMP has it");
}

}  // namespace

Result<std::partial_ordering> kcmp(KcmpType type, HostPid a, HostPid b, std::uint64_t index_a, std::uint64_t index_b) {
  switch (call(type, a, b, index_a, index_b)) {
    case 0:
      return std::partial_ordering::equivalent;
    case 1:
      return std::partial_ordering::less;
    case 2:
      return std::partial_ordering::greater;
    case 3:
      return std::partial_ordering::unordered;
    default:
      return failed(a, b);
  }
}

Result<bool> kcmp_epoll_target(HostPid task, int fd, HostPid owner, int epoll_fd, int target_fd, std::uint32_t offset) {
  // struct kcmp_epoll_slot
  const std::uint32_t slot[3] = {static_cast<std::uint32_t>(epoll_fd), static_cast<std::uint32_t>(target_fd), offset};
  const long order =
      call(KcmpType::kEpollTarget, task, owner, static_cast<std::uint64_t>(fd), reinterpret_cast<std::uint64_t>(&slot));
  if (order < 0) return failed(task, owner);
  return order == 0;
}

Result<std::vector<std::size_t>> group_open_files(std::span<const FileSlot> slots) {
  std::vector<std::size_t> first_of(slots.size());
  std::vector<std::size_t> sorted;  // the first slot of each description, in the kernel's order
  for (std::size_t i = 0; i < slots.size(); ++i) {
    std::size_t low = 0, high = sorted.size();
    bool found = false;
    while (low < high && !found) {
      const std::size_t middle = low + (high - low) / 2;
      const FileSlot& other = slots[sorted[middle]];
      const auto order =
          STASIS_TRY(kcmp(KcmpType::kFile, slots[i].pid, other.pid, static_cast<std::uint64_t>(slots[i].fd),
                          static_cast<std::uint64_t>(other.fd)));
      if (order == std::partial_ordering::equivalent) {
        first_of[i] = sorted[middle];
        found = true;
      } else if (order == std::partial_ordering::less) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    if (found) continue;
    first_of[i] = i;
    sorted.insert(sorted.begin() + static_cast<std::ptrdiff_t>(low), i);
  }
  return first_of;
}

}  // namespace stasis::kernel
