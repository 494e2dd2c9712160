// SPDX-License-Identifier: Apache-2.0
#include "kernel/clocks.h"

#include <fcntl.h>
#include <time.h>

#include "base/file.h"

namespace stasis::kernel {
namespace {

std::int64_t read_ns(clockid_t clock) noexcept {
  timespec now{};
  ::clock_gettime(clock, &now);  // can't fail for these clocks
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

Clocks read_clocks() noexcept {
  return {.realtime_ns = read_ns(CLOCK_REALTIME),
          .monotonic_ns = read_ns(CLOCK_MONOTONIC),
          .boottime_ns = read_ns(CLOCK_BOOTTIME)};
}

Result<std::string> boot_id() {
  std::string id = STASIS_TRY(read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 256));
  if (id.ends_with('\n')) id.pop_back();
  return id;
}

}  // namespace stasis::kernel
