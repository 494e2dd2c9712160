// SPDX-License-Identifier: Apache-2.0
#include "resource/system_v/ipc_namespace.h"

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <span>

#include "base/file.h"
#include "kernel/descriptors.h"
#include "kernel/pidfd.h"
#include "kernel/proc_dir.h"
#include "kernel/trial.h"

namespace stasis {
namespace {

Result<void> enter(HostPid pid) {
  const auto proc = STASIS_TRY(kernel::ProcDir::open(pid));
  const auto self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  const bool same_user = STASIS_TRY(proc.ns(kernel::Namespace::kUser)) == STASIS_TRY(self.ns(kernel::Namespace::kUser));
  const UniqueFd pidfd =
      STASIS_TRY(proc.leader_has_ended() ? kernel::pidfd_open_thread(proc.live_tid()) : kernel::pidfd_open(pid));
  if (::setns(pidfd.get(), CLONE_NEWIPC | (same_user ? 0 : CLONE_NEWUSER)) == 0) return {};
  return Error::from_errno(errno, "enter the program's IPC namespace");
}

}  // namespace

Result<bool> shares_ipc_namespace(HostPid pid) {
  const auto proc = STASIS_TRY(kernel::ProcDir::open(pid));
  const auto self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  return STASIS_TRY(proc.ns(kernel::Namespace::kIpc)) == STASIS_TRY(self.ns(kernel::Namespace::kIpc));
}

Result<std::vector<std::byte>> in_ipc_namespace(HostPid pid,
                                                const std::function<Result<std::vector<std::byte>>()>& ask) {
  if (STASIS_TRY(shares_ipc_namespace(pid))) return ask();
  const UniqueFd answer = STASIS_TRY(kernel::memfd_create("stasis"));
  const auto answered = kernel::try_in_child([&]() -> Result<void> {
    STASIS_TRY(enter(pid));
    const auto bytes = STASIS_TRY(ask());
    return write_full(answer.get(), bytes);
  });
  STASIS_TRY(answered);
  struct ::stat stat{};
  if (::fstat(answer.get(), &stat) != 0) return Error::from_errno(errno, "fstat of a memfd");
  std::vector<std::byte> bytes(static_cast<std::size_t>(stat.st_size));
  STASIS_TRY(pread_full(answer.get(), bytes, 0));
  return bytes;
}

}  // namespace stasis
