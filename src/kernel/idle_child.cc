// SPDX-License-Identifier: Apache-2.0
#include "kernel/idle_child.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace stasis::kernel {

Result<IdleChild> IdleChild::make() {
  const pid_t parent = ::getpid();
  const long pid = ::syscall(SYS_clone, 0, 0, 0, 0, 0);  // fork(2) without an exit signal
  if (pid < 0) return Error::from_errno(errno, "clone");
  if (pid == 0) {
    // Other threads may hold any lock: nothing but system calls. Every signal is blocked but the one that ends it.
    const std::uint64_t all = ~std::uint64_t{0};
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, sizeof all);
    ::syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    while (::syscall(SYS_getppid) == parent) ::syscall(SYS_pause);
    ::syscall(SYS_exit_group, 0);
  }
  return IdleChild(HostPid(static_cast<pid_t>(pid)));
}

IdleChild::IdleChild(IdleChild&& other) noexcept : pid_(std::exchange(other.pid_, HostPid())) {}

IdleChild::~IdleChild() {
  if (!pid_) return;
  ::kill(pid_.value(), SIGKILL);
  while (::waitpid(pid_.value(), nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

}  // namespace stasis::kernel
