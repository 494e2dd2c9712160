// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "image/record_types.h"
#include "stasis/image_environment.h"

namespace stasis {

static_assert(EnvironmentRecord::kType == RecordType::kEnvironment);

namespace {

std::int64_t clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

EnvironmentRecord EnvironmentRecord::of_this_machine() {
  EnvironmentRecord record;
#if defined(__aarch64__)
  record.arch = Arch::kAarch64;
#endif
  record.page_size = static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE));
  utsname names{};
  if (::uname(&names) == 0) record.kernel_release = names.release;
  // Without /proc the boot is unknown, which compares unequal to every known one.
  if (auto id = read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64)) {
    record.boot_id = id->substr(0, id->find('\n'));
  }
  record.realtime_ns = clock_ns(CLOCK_REALTIME);
  record.monotonic_ns = clock_ns(CLOCK_MONOTONIC);
  record.boottime_ns = clock_ns(CLOCK_BOOTTIME);
  record.created_ns = record.realtime_ns;
  record.creator = "stasis " STASIS_VERSION;
  return record;
}

}  // namespace stasis
