// SPDX-License-Identifier: Apache-2.0
#include "kernel/pidfd.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>

#include "base/file.h"
#include "kernel/raw.h"

namespace stasis::kernel {

Result<UniqueFd> pidfd_open(HostPid pid) {
  UniqueFd fd(static_cast<int>(raw("pidfd_open", SYS_pidfd_open, pid.value(), 0)));
  if (!fd) return Error::from_errno(errno, fmt::format("pidfd_open of process {}", pid.value()));
  return fd;
}

Result<UniqueFd> pidfd_open_thread(HostPid tid) {
  constexpr unsigned kThread = O_EXCL;  // PIDFD_THREAD
  UniqueFd fd(static_cast<int>(raw("pidfd_open", SYS_pidfd_open, tid.value(), kThread)));
  if (fd) return fd;
  const int code = errno;
  Error error = Error::from_errno(code, fmt::format("pidfd_open of thread {}", tid.value()));
  return code == EINVAL ? std::move(error).with_code(Errc::kKernelFeature).with_help("Linux 6.9 and later have it")
                        : error;
}

Result<UniqueFd> pidfd_getfd(int pidfd, int fd) {
  UniqueFd copy(static_cast<int>(raw("pidfd_getfd", SYS_pidfd_getfd, pidfd, fd, 0)));
  if (copy) return copy;
  const int code = errno;
  Error error = Error::from_errno(code, fmt::format("take a copy of descriptor {}", fd));
  if (code == EBADF) return std::move(error).with_code(Errc::kNotFound);
  if (code == EMFILE) return std::move(error).with_help("raise the limit of open files (ulimit -n)");
  return error;
}

HostPid pid_of_pidfd(int pidfd) {
  const auto info = read_file(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", pidfd));
  constexpr std::string_view kField = "\nPid:\t";
  const std::size_t at = info ? info->find(kField) : std::string::npos;
  int pid = 0;
  if (at != std::string::npos) std::from_chars(info->data() + at + kField.size(), info->data() + info->size(), pid);
  return HostPid(std::max(pid, 0));
}

Result<void> pidfd_send_signal(int pidfd, int signal) {
  if (raw("pidfd_send_signal", SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) != 0) {
    return Error::from_errno(errno, fmt::format("send signal {}", signal));
  }
  return {};
}

}  // namespace stasis::kernel
