// SPDX-License-Identifier: Apache-2.0
// Userfaultfd: page faults of an address space as its owner's business (man 2 userfaultfd, man 2 ioctl_userfaultfd).
//
// The descriptor acts on the memory of the process that made it, whoever holds it. Three uses:
//   fill    REGISTER for missing pages; each first touch waits until copy() or zero() put a page there
//   hold    REGISTER for writes and write_protect(); each first write waits until the protection is taken off
//   track   features kWpAsync | kWpUnpopulated, REGISTER for writes; nobody ever waits, and PageScanner::take_written()
//           tells what was written
// An area belongs to one userfaultfd at a time. Closing the last descriptor takes all registrations off and wakes
// whoever waits.
#pragma once

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "base/unique_fd.h"
#include "kernel/page_scan.h"
#include "stasis/result.h"

namespace stasis::kernel {

// UFFD_FEATURE_* of include/uapi/linux/userfaultfd.h, with the kernel that has it first.
namespace uffd {
inline constexpr std::uint64_t kPagefaultWp = 1 << 0;     // 5.7
inline constexpr std::uint64_t kEventFork = 1 << 1;       // 4.11, needs CAP_SYS_PTRACE
inline constexpr std::uint64_t kEventRemap = 1 << 2;      // 4.11
inline constexpr std::uint64_t kEventRemove = 1 << 3;     // 4.11
inline constexpr std::uint64_t kMissingHugetlb = 1 << 4;  // 4.11
inline constexpr std::uint64_t kMissingShmem = 1 << 5;    // 4.11
inline constexpr std::uint64_t kEventUnmap = 1 << 6;      // 4.11
inline constexpr std::uint64_t kThreadId = 1 << 8;        // 4.14
inline constexpr std::uint64_t kExactAddress = 1 << 11;   // 5.18
inline constexpr std::uint64_t kWpHugetlbShmem = 0x1000;  // 5.19
inline constexpr std::uint64_t kWpUnpopulated = 1 << 13;  // 6.4
inline constexpr std::uint64_t kPoison = 1 << 14;         // 6.6
inline constexpr std::uint64_t kWpAsync = 1 << 15;        // 6.7
inline constexpr std::uint64_t kMove = 1 << 16;           // 6.8
}  // namespace uffd

// Whose faults: with kUserMode, which needs no privilege (Linux 5.11), a fault in the kernel's own access (a read(2)
// into a missing page) fails there with EFAULT instead. Tracking sees all writes either way.
enum class UffdFaults : std::uint8_t { kAll, kUserMode };
// Flags of userfaultfd(2): close-on-exec, non-blocking.
int userfaultfd_flags(UffdFaults faults);

struct UffdFault {
  std::uint64_t address = 0;  // of the page, or exact (kExactAddress)
  bool write = false;
  bool protected_page = false;  // it is there and write-protected; else it is missing
  std::uint32_t thread = 0;     // with kThreadId
};
struct UffdForked {
  UniqueFd child;  // a userfaultfd of the child, registered as the parent's
};
struct UffdMoved {
  std::uint64_t from = 0, to = 0, length = 0;
};
struct UffdRemoved {
  PageRun pages;  // MADV_DONTNEED and the like: the range stays registered and is empty now
};
struct UffdUnmapped {
  PageRun pages;
};
using UffdEvent = std::variant<UffdFault, UffdForked, UffdMoved, UffdRemoved, UffdUnmapped>;

// Owns the descriptor. Calls from several threads are fine. Process gone: kVanished.
class Userfaultfd {
 public:
  Userfaultfd() = default;
  // Of this process. kNotPermitted: faults of the kernel need CAP_SYS_PTRACE where vm.unprivileged_userfaultfd is 0.
  static Result<Userfaultfd> create(UffdFaults faults);
  // A descriptor that userfaultfd(2) gave to any process.
  explicit Userfaultfd(UniqueFd fd) : fd_(std::move(fd)) {}

  explicit operator bool() const { return static_cast<bool>(fd_); }
  int fd() const { return fd_.get(); }

  // The first thing to do, once. Returns what is on: `wanted`, and of `welcome` what the kernel has. kKernelFeature: it
  // lacks something of `wanted`, or the feature "wp_async" is switched off (without.h) and wanted.
  Result<std::uint64_t> enable(std::uint64_t wanted, std::uint64_t welcome = 0);

  enum Modes : unsigned { kMissing = 1, kWriteProtect = 2, kMinor = 4 };
  // Whole pages of areas that this process may write. kBusy: another userfaultfd has (some of) them. kNotFound: nothing
  // is mapped there. kInvalidArgument: an area of a kind that can't be registered, or not in this way.
  Result<void> register_range(const PageRun& pages, unsigned modes) const;
  Result<void> unregister(const PageRun& pages) const;

  // An answer may come too late: the process forks, moves or unmaps memory at this very moment, and an event about it
  // waits to be read.
  enum class Answer : std::uint8_t { kDone, kEventWaits };
  // Holds writes to these pages / lets them happen, waking who waits. Pages that are not there: only with
  // kWpUnpopulated. REQUIRES: registered for writes. kNotFound: not any more.
  Result<Answer> write_protect(const PageRun& pages, bool protect) const;

  // How far a filling came and what ended it.
  struct Filled {
    enum class End : std::uint8_t { kDone, kPageThere, kEventWaits, kNotRegistered };
    std::uint64_t bytes = 0;
    End end = End::kDone;
  };
  // kPageThere: the next page has content already, which stays; who waits for it must be woken. kWriteProtected: the
  // pages are write-protected at once.
  enum class Protection : std::uint8_t { kNone, kWriteProtected };
  Result<Filled> copy(std::uint64_t to, std::span<const std::byte> from,
                      Protection protection = Protection::kNone) const;
  Result<Filled> zero(const PageRun& pages) const;
  // Lets everybody who waits for these pages try again.
  Result<void> wake(const PageRun& pages) const;

  // What has happened, oldest first; nothing if nothing has. A process in an event's call waits until it was read.
  Result<std::vector<UffdEvent>> read_events() const;

 private:
  UniqueFd fd_;
};

}  // namespace stasis::kernel
