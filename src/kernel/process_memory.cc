// SPDX-License-Identifier: Apache-2.0
#include "kernel/process_memory.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/panic.h"
#include "kernel/raw.h"

namespace stasis::kernel {
namespace {

constexpr std::size_t kIovecLimit = 1024;                      // UIO_MAXIOV
constexpr std::uint64_t kBytesLimit = std::uint64_t{1} << 30;  // below MAX_RW_COUNT

// Where a transfer stands: the next byte is `skip` bytes into ranges[index].
struct Position {
  std::span<const RemoteRange> ranges;
  std::size_t index = 0;
  std::uint64_t skip = 0;

  bool done() const { return index == ranges.size(); }
  std::uint64_t address() const { return ranges[index].address + skip; }
  std::uint64_t left_in_range() const { return ranges[index].size - skip; }
  void advance(std::uint64_t bytes) {
    while (index < ranges.size() && bytes >= left_in_range()) {
      bytes -= left_in_range();
      ++index;
      skip = 0;
    }
    skip += bytes;
  }
};

// Bytes, or the error, of one pread or pwrite of mem.
Result<std::size_t> moved_by_mem(HostPid pid, long moved, std::uint64_t address) {
  if (moved > 0) return static_cast<std::size_t>(moved);
  if (moved == 0)  // mem of a process that has ended reads as empty
    return Error(Errc::kVanished, fmt::format("memory of process {}: it has ended", pid.value()));
  if (errno == EINTR) return std::size_t{0};
  if (errno != EIO && errno != EFAULT)
    return Error::from_errno(errno, fmt::format("memory of process {}", pid.value()));
  return Error(Errc::kIo, fmt::format("address {:#x} of process {} can't be accessed", address, pid.value()));
}

// `vector(local, remote, n)` is process_vm_readv or _writev, `single(buffer, size, address)` pread or pwrite of mem;
// both return bytes or -1 with errno. `bytes` holds all ranges.
template <class Byte, class Vector, class Single>
Result<void> transfer(HostPid pid, std::span<const RemoteRange> ranges, std::span<Byte> bytes, Vector vector,
                      Single single) {
  Position at{ranges};
  at.advance(0);  // past empty ranges
  std::size_t done = 0;
  while (!at.done()) {
    std::array<iovec, kIovecLimit> remote;
    std::size_t count = 0;
    std::uint64_t total = 0;
    for (Position next = at; !next.done() && count < kIovecLimit && total < kBytesLimit;) {
      const std::uint64_t size = std::min(next.left_in_range(), kBytesLimit - total);
      remote[count++] = {reinterpret_cast<void*>(next.address()), size};
      total += size;
      next.advance(size);
    }
    iovec local{const_cast<std::byte*>(bytes.data() + done), total};
    long moved = vector(&local, remote.data(), count);
    if (moved <= 0) {
      const int error = moved < 0 ? errno : EFAULT;
      // ESRCH: the thread that was named has ended; `mem` is bound to the memory, whoever else lives in it.
      if (error != EFAULT && error != EPERM && error != ENOSYS && error != ESRCH) {
        return Error::from_errno(error, fmt::format("memory of process {}", pid.value()));
      }
      moved = single(bytes.data() + done, std::min(at.left_in_range(), kBytesLimit), at.address());
      moved = static_cast<long>(STASIS_TRY(moved_by_mem(pid, moved, at.address())));
    }
    done += static_cast<std::size_t>(moved);
    at.advance(static_cast<std::uint64_t>(moved));
  }
  return {};
}

std::uint64_t total_size(std::span<const RemoteRange> ranges) {
  std::uint64_t total = 0;
  for (const RemoteRange& range : ranges) total += range.size;
  return total;
}

}  // namespace

Result<ProcessMemory> ProcessMemory::open(const ProcDir& proc) {
  return ProcessMemory(proc.live_tid(), STASIS_TRY(proc.open_file("mem", O_RDWR)));
}

Result<void> ProcessMemory::read(std::span<const RemoteRange> ranges, std::span<std::byte> bytes) const {
  STASIS_INVARIANT(total_size(ranges) == bytes.size());
  return transfer(
      pid_, ranges, bytes,
      [&](const iovec* local, const iovec* remote, std::size_t count) {
        return raw("process_vm_readv", SYS_process_vm_readv, pid_.value(), local, 1ul, remote, count, 0ul);
      },
      [&](std::byte* buffer, std::uint64_t size, std::uint64_t address) {
        return raw("pread64", SYS_pread64, mem_.get(), buffer, size, address);
      });
}

Result<void> ProcessMemory::read_shared(std::span<const RemoteRange> ranges, std::span<std::byte> bytes) const {
  STASIS_INVARIANT(total_size(ranges) == bytes.size());
  std::size_t done = 0;
  for (Position at{ranges};;) {
    at.advance(0);
    if (at.done()) return {};
    const std::uint64_t size = std::min(at.left_in_range(), kBytesLimit);
    const long read = raw("pread64", SYS_pread64, mem_.get(), bytes.data() + done, size, at.address());
    const std::size_t moved = STASIS_TRY(moved_by_mem(pid_, read, at.address()));
    done += moved;
    at.advance(moved);
  }
}

Result<void> ProcessMemory::write(std::span<const RemoteRange> ranges, std::span<const std::byte> bytes) const {
  STASIS_INVARIANT(total_size(ranges) == bytes.size());
  return transfer(
      pid_, ranges, bytes,
      [&](const iovec* local, const iovec* remote, std::size_t count) {
        return raw("process_vm_writev", SYS_process_vm_writev, pid_.value(), local, 1ul, remote, count, 0ul);
      },
      [&](const std::byte* buffer, std::uint64_t size, std::uint64_t address) {
        return raw("pwrite64", SYS_pwrite64, mem_.get(), buffer, size, address);
      });
}

Result<void> ProcessMemory::read(std::uint64_t address, std::span<std::byte> bytes) const {
  const RemoteRange range{address, bytes.size()};
  return read(std::span(&range, 1), bytes);
}

Result<void> ProcessMemory::write(std::uint64_t address, std::span<const std::byte> bytes) const {
  const RemoteRange range{address, bytes.size()};
  return write(std::span(&range, 1), bytes);
}

}  // namespace stasis::kernel
