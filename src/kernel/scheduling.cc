// SPDX-License-Identifier: Apache-2.0
#include "kernel/scheduling.h"

#include <fmt/core.h>
#include <sys/resource.h>

#include <cerrno>
#include <string_view>

#include "kernel/raw.h"

namespace stasis::kernel {
namespace {

constexpr int kIoPriorityOfThread = 1;  // IOPRIO_WHO_PROCESS
constexpr std::size_t kMaxCpuWords = 1024;

Error failed(std::string_view what, HostPid tid, std::source_location where = std::source_location::current()) {
  const int error = errno;
  Error result = Error::from_errno(error, fmt::format("{} of thread {}", what, tid.value()), where);
  if (error != EPERM && error != EACCES) return result;
  return std::move(result)
      .with_code(Errc::kMissingCapability)
      .with_help("CAP_SYS_NICE, or a caller that has this priority itself, can do it");
}

}  // namespace

Result<SchedAttr> get_sched_attr(HostPid tid) {
  SchedAttr attr;
  if (raw("sched_getattr", SYS_sched_getattr, tid.value(), &attr, sizeof attr, 0) != 0)
    return failed("reading the policy", tid);
  return attr;
}

Result<void> set_sched_attr(HostPid tid, const SchedAttr& attr) {
  SchedAttr copy = attr;
  copy.size = sizeof copy;
  if (raw("sched_setattr", SYS_sched_setattr, tid.value(), &copy, 0) != 0) return failed("setting the policy", tid);
  return {};
}

Result<int> get_nice(HostPid tid) {
  // The raw call yields 20 - nice, so that no value is negative.
  const long value = raw("getpriority", SYS_getpriority, PRIO_PROCESS, tid.value());
  if (value < 0) return failed("reading the nice value", tid);
  return static_cast<int>(20 - value);
}

Result<void> set_nice(HostPid tid, int nice) {
  if (raw("setpriority", SYS_setpriority, PRIO_PROCESS, tid.value(), nice) != 0)
    return failed("setting the nice value", tid);
  return {};
}

Result<CpuMask> get_affinity(HostPid tid) {
  CpuMask mask(16);
  for (;;) {
    const long bytes =
        raw("sched_getaffinity", SYS_sched_getaffinity, tid.value(), mask.size() * sizeof mask[0], mask.data());
    if (bytes > 0) {
      mask.resize(static_cast<std::size_t>(bytes) / sizeof mask[0]);
      while (!mask.empty() && mask.back() == 0) mask.pop_back();
      return mask;
    }
    if (errno != EINVAL || mask.size() >= kMaxCpuWords) return failed("reading the affinity", tid);
    mask.assign(mask.size() * 4, 0);  // the machine has more CPUs than that
  }
}

Result<void> set_affinity(HostPid tid, const CpuMask& mask) {
  if (raw("sched_setaffinity", SYS_sched_setaffinity, tid.value(), mask.size() * sizeof(mask[0]), mask.data()) != 0)
    return failed("setting the affinity", tid);
  return {};
}

Result<std::uint32_t> get_io_priority(HostPid tid) {
  const long value = raw("ioprio_get", SYS_ioprio_get, kIoPriorityOfThread, tid.value());
  if (value < 0) return failed("reading the I/O priority", tid);
  return static_cast<std::uint32_t>(value);
}

Result<void> set_io_priority(HostPid tid, std::uint32_t priority) {
  if (raw("ioprio_set", SYS_ioprio_set, kIoPriorityOfThread, tid.value(), priority) != 0)
    return failed("setting the I/O priority", tid);
  return {};
}

}  // namespace stasis::kernel
