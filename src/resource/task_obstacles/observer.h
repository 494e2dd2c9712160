// SPDX-License-Identifier: Apache-2.0
// Observer: who we are, as far as it decides what we may save and what is foreign to us.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "kernel/proc_dir.h"
#include "stasis/result.h"

namespace stasis {

// The kinds of namespace that a task lives in, those for its children included.
inline constexpr std::array kNamespaceKinds = {kernel::Namespace::kUser,
                                               kernel::Namespace::kPid,
                                               kernel::Namespace::kMount,
                                               kernel::Namespace::kIpc,
                                               kernel::Namespace::kTime,
                                               kernel::Namespace::kNet,
                                               kernel::Namespace::kUts,
                                               kernel::Namespace::kCgroup,
                                               kernel::Namespace::kPidForChildren,
                                               kernel::Namespace::kTimeForChildren};
// Inode numbers by position in kNamespaceKinds; 0: this kernel has none of that kind, or it could not be read
// (that for children can't before the first of them).
using NamespaceIds = std::array<std::uint64_t, kNamespaceKinds.size()>;
NamespaceIds namespace_ids(const kernel::ProcDir& proc);

// Plain facts, so that tests can make them up.
struct Observer {
  HostPid pid;
  std::vector<HostPid> ancestors;    // parent first
  std::uint32_t uid = 0;             // the one that /proc and ptrace go by
  std::uint64_t capabilities = 0;    // effective
  bool may_suspend_seccomp = false;  // CAP_SYS_ADMIN in the first user namespace
  NamespaceIds namespaces{};
  int yama_scope = 0;  // sysctl kernel.yama.ptrace_scope, 0 where there is no Yama

  // The calling process.
  static Result<Observer> here();
};

}  // namespace stasis
