// SPDX-License-Identifier: Apache-2.0
// Scheduling of another thread, read and set from outside: sched_setattr(2), sched_setaffinity(2), ioprio_set(2),
// setpriority(2). Each costs 0.1-0.3 us; reading needs no rights, setting the same user or CAP_SYS_NICE.
//
// Errors: the thread is gone: kVanished; no rights: kMissingCapability with help; a policy or CPU this machine lacks:
// kSystem. A tid of 0 means the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "stasis/result.h"

namespace stasis::kernel {

// struct sched_attr of include/uapi/linux/sched/types.h. Times in nanoseconds. For the fair policies `runtime` is the
// time slice (Linux 6.12; 0 before).
struct SchedAttr {
  std::uint32_t size = 56;
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;  // of the fair policies; 0 is reported for the others
  std::uint32_t priority = 0;
  std::uint64_t runtime = 0;
  std::uint64_t deadline = 0;
  std::uint64_t period = 0;
  std::uint32_t util_min = 0;
  std::uint32_t util_max = 0;
};
static_assert(sizeof(SchedAttr) == 56 && offsetof(SchedAttr, util_max) == 52);

// SCHED_FLAG_*
inline constexpr std::uint64_t kSchedResetOnFork = 0x01;
inline constexpr std::uint64_t kSchedReclaim = 0x02;
inline constexpr std::uint64_t kSchedDeadlineOverrun = 0x04;
inline constexpr std::uint64_t kSchedUtilClamp = 0x60;
// Policies of the fair class; all others need privilege.
inline constexpr std::uint32_t kSchedOther = 0;
inline constexpr std::uint32_t kSchedBatch = 3;
inline constexpr std::uint32_t kSchedIdle = 5;
inline constexpr std::uint32_t kSchedDeadline = 6;

Result<SchedAttr> get_sched_attr(HostPid tid);
Result<void> set_sched_attr(HostPid tid, const SchedAttr& attr);

// -20 ... 19, also where the present policy does not use it.
Result<int> get_nice(HostPid tid);
Result<void> set_nice(HostPid tid, int nice);

// Bit n % 64 of word n / 64 is CPU n; no trailing zero words.
using CpuMask = std::vector<std::uint64_t>;
Result<CpuMask> get_affinity(HostPid tid);
// CPUs that are absent here are ignored; none left over is an error.
Result<void> set_affinity(HostPid tid, const CpuMask& mask);

// IOPRIO_PRIO_VALUE(class, level); 0: derived from the nice value.
Result<std::uint32_t> get_io_priority(HostPid tid);
Result<void> set_io_priority(HostPid tid, std::uint32_t priority);
// The class of such a value: 0 none, 1 real time, 2 best effort, 3 idle.
constexpr std::uint32_t io_priority_class(std::uint32_t priority) { return priority >> 13; }

}  // namespace stasis::kernel
