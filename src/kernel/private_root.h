// SPDX-License-Identifier: Apache-2.0
// A root directory that nobody else sees: an empty tmpfs that is mounted nowhere and vanishes with its last descriptor
// (fsopen(2), fsmount(2)). In it a unix socket can be bound to any path without touching a file of the system.
#pragma once

#include <functional>
#include <string_view>

#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis::kernel {

class PrivateRoot {
 public:
  // Needs CAP_SYS_ADMIN and CAP_SYS_CHROOT where the mount namespace belongs (kMissingCapability otherwise). Linux 5.2.
  static Result<PrivateRoot> create();
  // Runs `action` in a thread of its own whose root and working directory are this one; umask 0.
  Result<void> run(const std::function<Result<void>()>& action) const;

 private:
  explicit PrivateRoot(UniqueFd mount) : mount_(std::move(mount)) {}
  UniqueFd mount_;
};

// Runs `action` in a thread whose working directory, root and umask are its own; what it changes of them ends with it.
Result<void> run_with_own_directory(const std::function<Result<void>()>& action);

// mkdir(2) of everything above a path's last component, in the present root. For PrivateRoot::run().
Result<void> make_parent_directories(std::string_view path);

}  // namespace stasis::kernel
