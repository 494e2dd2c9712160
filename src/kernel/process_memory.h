// SPDX-License-Identifier: Apache-2.0
// ProcessMemory: reads and writes the memory of another process, whole ranges or an error.
//
// process_vm_readv(2) is the fast way but refuses what the process itself could not read (PROT_NONE); where it stops,
// the rest of the range goes through /proc/PID/mem, which does not (FOLL_FORCE, man 5 proc). So reads and writes work
// on any protection; writes to a private read-only page make a private copy, as a debugger's would. Guard regions
// (MADV_GUARD_INSTALL) and holes can't be read by either way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "kernel/proc_dir.h"
#include "stasis/result.h"

namespace stasis::kernel {

struct RemoteRange {
  std::uint64_t address = 0;
  std::uint64_t size = 0;  // bytes
};

// Owns a descriptor of /proc/PID/mem. Calls from several threads are fine. An exec in the process makes it useless.
// Errors: not mapped or a guard region: kIo, naming the address; process gone: kVanished.
class ProcessMemory {
 public:
  // kNotOwner where ptrace is not allowed.
  static Result<ProcessMemory> open(const ProcDir& proc);

  // All ranges, one after the other, into or from `bytes`. REQUIRES: bytes.size() is the sum of the sizes.
  Result<void> read(std::span<const RemoteRange> ranges, std::span<std::byte> bytes) const;
  Result<void> write(std::span<const RemoteRange> ranges, std::span<const std::byte> bytes) const;
  // As read(), at half the speed, but pages that the process shares with others (copy on write) stay shared:
  // process_vm_readv pins what it reads, and for that the kernel gives the process a copy of its own
  // (FAULT_FLAG_UNSHARE, Linux 5.19).
  Result<void> read_shared(std::span<const RemoteRange> ranges, std::span<std::byte> bytes) const;

  Result<void> read(std::uint64_t address, std::span<std::byte> bytes) const;
  Result<void> write(std::uint64_t address, std::span<const std::byte> bytes) const;
  // One trivially copyable object.
  template <class T>
  Result<T> load(RemotePtr<T> pointer) const {
    T value{};
    STASIS_TRY(read(pointer.address(), std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  template <class T>
  Result<void> store(RemotePtr<T> pointer, const T& value) const {
    return write(pointer.address(), std::as_bytes(std::span(&value, 1)));
  }

 private:
  ProcessMemory(HostPid pid, UniqueFd mem) : pid_(pid), mem_(std::move(mem)) {}

  HostPid pid_;
  UniqueFd mem_;
};

}  // namespace stasis::kernel
