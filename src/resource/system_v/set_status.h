// SPDX-License-Identifier: Apache-2.0
// IPC_SET where the old owner may not exist.
#pragma once

#include <sys/ipc.h>

#include <cerrno>

#include "base/log.h"

namespace stasis {

// Does IPC_SET by `set(wanted)`, where `permissions` is of `wanted`; on failure errno says why. In a user namespace
// others' numbers do not exist (EINVAL): what they owned belongs to `ours` there, as their files are nobody's, and
// whoever could use it still can.
template <class Status, class Set>
bool set_status(Status& wanted, ::ipc_perm& permissions, const ::ipc_perm& ours, Set set) {
  if (set(wanted)) return true;
  if (errno != EINVAL || (permissions.uid == ours.uid && permissions.gid == ours.gid)) return false;
  const auto mode = static_cast<unsigned>(permissions.mode);
  permissions.uid = ours.uid;
  permissions.gid = ours.gid;
  permissions.mode = static_cast<decltype(permissions.mode)>(mode | (mode & 07) << 6);
  log::info("system_v", "an object of a user who is not in this namespace becomes the program's");
  return set(wanted);
}

}  // namespace stasis
