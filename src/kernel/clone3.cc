// SPDX-License-Identifier: Apache-2.0
#include "kernel/clone3.h"

#include <fmt/core.h>

#include <cerrno>

#include "kernel/raw.h"

namespace stasis::kernel {

Result<HostPid> clone3_process(std::uint64_t flags, int exit_signal, std::span<const std::int32_t> pids,
                               ChildFunction child, void* context) {
  CloneArgs args;
  args.flags = flags;
  args.exit_signal = static_cast<std::uint64_t>(exit_signal);
  args.set_tid = pids.empty() ? 0 : reinterpret_cast<std::uint64_t>(pids.data());
  args.set_tid_size = pids.size();
  const long pid = raw("clone3", SYS_clone3, &args, sizeof args);
  if (pid == 0) {
    child(context);
    for (;;) raw_no_fault(SYS_exit_group, 127);
  }
  if (pid > 0) return HostPid(static_cast<std::int32_t>(pid));
  const int code = errno;
  Error error = Error::from_errno(
      code, pids.empty() ? std::string("create a process") : fmt::format("create a process with pid {}", pids.front()));
  if (code == EEXIST && !pids.empty()) return std::move(error).with_code(Errc::kPidTaken);
  return error;
}

}  // namespace stasis::kernel
