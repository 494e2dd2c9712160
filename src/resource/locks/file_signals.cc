// SPDX-License-Identifier: Apache-2.0
#include "resource/locks/file_signals.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "kernel/proc_dir.h"

namespace stasis {
namespace {

Result<FileLease> lease_of(const OpenFile& file) {
  for (const kernel::FileLock& lock : file.info.locks) {
    if (lock.kind != kernel::LockKind::kLease) continue;
    if (lock.state != "ACTIVE") return Error(Errc::kUnsupportedObject, "its lease is being broken by somebody");
    return lock.access == kernel::LockAccess::kWrite ? FileLease::kWrite : FileLease::kRead;
  }
  return FileLease::kNone;
}

ImagePid innermost(const std::vector<std::int32_t>& ids, std::int32_t outer) {
  return ImagePid(ids.empty() ? outer : ids.back());
}

// The owner by the number that the tree itself sees; nullopt: it is not in the tree.
std::optional<ImagePid> find_owner(const f_owner_ex& owner, const OpenFileTable& tree) {
  for (const DescriptorTable& table : tree.descriptors) {
    const auto proc = kernel::ProcDir::open(table.pid);
    if (!proc) continue;
    if (owner.type == F_OWNER_TID) {
      const auto status = proc->thread_status(HostPid(owner.pid));
      if (status) return innermost(status->ns_pid, owner.pid);
      continue;
    }
    const auto status = proc->status();
    if (!status) continue;
    if (owner.type == F_OWNER_PID && table.pid == HostPid(owner.pid)) return innermost(status->ns_tgid, owner.pid);
    const auto stat = proc->stat();
    if (owner.type == F_OWNER_PGRP && stat && stat->pgrp == owner.pid) return innermost(status->ns_pgid, owner.pid);
  }
  return std::nullopt;
}

}  // namespace

Result<FileSignalsRecord> look_at_signals(const OpenFile& file, const OpenFileTable& tree) {
  FileSignalsRecord record;
  if (file.is_path_only()) return record;
  record.asynchronous = (file.info.flags & O_ASYNC) != 0;
  record.lease = STASIS_TRY(lease_of(file));
  if (!file.held) return record;
  f_owner_ex owner{};
  if (::fcntl(file.held.get(), F_GETOWN_EX, &owner) != 0) return Error::from_errno(errno, "ask for a file's owner");
  record.signal = static_cast<std::uint32_t>(std::max(0, ::fcntl(file.held.get(), F_GETSIG)));
  if (owner.pid == 0) return record;
  const auto found = find_owner(owner, tree);
  if (!found) {
    return Error(Errc::kExternalPeer, fmt::format("its signals go to process {}, which is not in the process tree "
                                                  "(F_SETOWN)",
                                                  owner.pid));
  }
  record.owner = *found;
  record.owner_kind = owner.type == F_OWNER_TID   ? FileOwnerKind::kThread
                      : owner.type == F_OWNER_PID ? FileOwnerKind::kProcess
                                                  : FileOwnerKind::kGroup;
  return record;
}

void restore_signals(const FileSignalsRecord& record, Batch& batch, BatchChecks& checks) {
  if (record.owner_kind != FileOwnerKind::kNobody) {
    f_owner_ex owner{};
    owner.type = record.owner_kind == FileOwnerKind::kThread    ? F_OWNER_TID
                 : record.owner_kind == FileOwnerKind::kProcess ? F_OWNER_PID
                                                                : F_OWNER_PGRP;
    owner.pid = record.owner.value();
    checks.add(batch.call(SYS_fcntl, record.fd, F_SETOWN_EX, batch.put(owner).remote),
               fmt::format("set the owner of descriptor {}", record.fd));
  }
  if (record.signal != 0) {
    checks.add(batch.call(SYS_fcntl, record.fd, F_SETSIG, record.signal),
               fmt::format("set the signal of descriptor {}", record.fd));
  }
  if (record.lease != FileLease::kNone) {
    const int lease = record.lease == FileLease::kWrite ? F_WRLCK : F_RDLCK;
    checks.add(batch.call(SYS_fcntl, record.fd, F_SETLEASE, lease),
               fmt::format("take the lease of descriptor {} (somebody else may have the file open)", record.fd));
  }
  if (record.asynchronous) {
    const int on = 1;
    checks.add(batch.call(SYS_ioctl, record.fd, FIOASYNC, batch.put(on).remote),
               fmt::format("set O_ASYNC of descriptor {}", record.fd));
  }
}

}  // namespace stasis
