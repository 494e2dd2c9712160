// SPDX-License-Identifier: Apache-2.0
#include "tracee/userfaultfd.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <cerrno>

#include "kernel/pidfd.h"

namespace stasis {
namespace {

// The number that the next descriptor gets.
Result<int> next_descriptor(const kernel::ProcDir& proc) {
  int next = 0;
  for (const int fd : STASIS_TRY(proc.fds())) {
    if (fd > next) break;
    next = fd + 1;
  }
  return next;
}

// What fails for once is done again: a descriptor of ours must not stay there.
Result<void> close_in(TracedProcess& process, int fd) {
  constexpr int kTries = 3;
  const Patience patience(std::chrono::minutes(1), nullptr);  // whoever has lost his: this is done
  const auto close = [&]() -> Result<void> {
    // What was broken off comes to its end first.
    if (process.carrier().state() == TracedThread::State::kRunning) {
      STASIS_TRY(process.carrier().await_report(patience));
    }
    Batch batch(process.carrier_slot());
    const std::size_t closed = batch.call(SYS_close, fd);
    STASIS_TRY(process.run(batch, patience));
    const auto done = batch.check(closed, fmt::format("close in process {}", process.pid().value()));
    if (!done && done.error().sys_errno() != EBADF) return done.error();
    return process.close_if_killed(-1);
  };
  auto closed = close();
  for (int i = 1; i < kTries && !closed; ++i) closed = close();
  return closed;
}

}  // namespace

Result<kernel::Userfaultfd> make_userfaultfd_in(TracedProcess& process, kernel::UffdFaults faults,
                                                const Patience& patience) {
  const int next = STASIS_TRY(next_descriptor(process.proc()));
  STASIS_TRY(process.close_if_killed(next));
  Batch batch(process.carrier_slot());
  const std::size_t made = batch.call(SYS_userfaultfd, kernel::userfaultfd_flags(faults));
  if (auto ran = process.run(batch, patience); !ran) {
    // Perhaps it was made.
    static_cast<void>(close_in(process, next));
    return Error(std::move(ran).error());
  }
  const auto fd = batch.check(made, fmt::format("userfaultfd in process {}", process.pid().value()));
  if (!fd) {
    Error error = fd.error();
    STASIS_TRY(process.close_if_killed(-1));
    if (error.sys_errno() == ENOSYS) return std::move(error).with_code(Errc::kKernelFeature);
    if (error.sys_errno() != EPERM) return error;
    return std::move(error).with_help(
        "the program must have CAP_SYS_PTRACE, as root's have; --snapshot auto, cow and precopy do without");
  }
  auto taken = kernel::pidfd_getfd(process.pidfd().get(), static_cast<int>(*fd));
  STASIS_TRY(close_in(process, static_cast<int>(*fd)));
  return kernel::Userfaultfd(STASIS_TRY(std::move(taken)));
}

}  // namespace stasis
