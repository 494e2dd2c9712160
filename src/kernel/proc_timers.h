// SPDX-License-Identifier: Apache-2.0
// /proc/PID/timers: the POSIX timers of a process (man 5 proc, fs/proc/base.c, CONFIG_CHECKPOINT_RESTORE).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

struct PosixTimer {
  std::int32_t id = 0;
  std::int32_t signal = 0;
  std::uint64_t value = 0;    // sigev_value
  std::int32_t notify = 0;    // SIGEV_SIGNAL, SIGEV_NONE or SIGEV_THREAD, | SIGEV_THREAD_ID when for one thread
  std::int32_t target = 0;    // pid, or with SIGEV_THREAD_ID tid, in the reader's pid namespace; 0: gone
  std::int32_t clock_id = 0;  // CLOCK_*; negative: a process's or thread's CPU clock
};

Result<std::vector<PosixTimer>> parse_timers(std::string_view text);

}  // namespace stasis::kernel
