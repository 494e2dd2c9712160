// SPDX-License-Identifier: Apache-2.0
// IdleChild: a process that does nothing and has nothing of its own, to compare others with.
#pragma once

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

// Single-threaded, without a System V semaphore undo list (fork(2) does not pass it on). Ends with its owner, whom it
// sends no SIGCHLD. Made and dropped by the same thread.
class IdleChild {
 public:
  static Result<IdleChild> make();
  IdleChild(IdleChild&& other) noexcept;
  IdleChild& operator=(IdleChild&&) = delete;
  ~IdleChild();

  HostPid pid() const { return pid_; }

 private:
  explicit IdleChild(HostPid pid) : pid_(pid) {}
  HostPid pid_;
};

}  // namespace stasis::kernel
