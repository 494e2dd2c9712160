// SPDX-License-Identifier: Apache-2.0
// raw(): the one way by which this layer calls the kernel where libc has no wrapper (or has one that adds to it).
//
// It is also the seam for fault tests: STASIS_FAIL_SYSCALL=N makes the N-th call (counted from 1) fail with EIO,
// STASIS_FAIL_SYSCALL=name:N the N-th call of that name; an ":ENUM" number behind it picks another errno. Calls that
// let a tracee go (detach, resume) are made by raw_no_fault(), so that a forced failure never keeps somebody's process.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace stasis::kernel {

// True when this call is the one to fail; sets errno then. Thread-safe.
bool inject_fault(std::string_view name) noexcept;

// syscall(2) without faults: the result, or -1 with errno.
template <class... Args>
long raw_no_fault(long number, Args... args) noexcept {
  return ::syscall(number, args...);
}

template <class... Args>
long raw(std::string_view name, long number, Args... args) noexcept {
  if (inject_fault(name)) return -1;
  return ::syscall(number, args...);
}

}  // namespace stasis::kernel
