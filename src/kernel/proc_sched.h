// SPDX-License-Identifier: Apache-2.0
// /proc/PID/task/TID/sched (kernel/sched/debug.c, CONFIG_SCHED_DEBUG). Only what tells how long a thread has slept:
// read before a freeze, the distance of two threads' exec_start is the time since the sleeper last ran.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "stasis/result.h"

namespace stasis::kernel {

struct SchedInfo {
  std::optional<std::uint64_t> exec_start_ns;  // run-queue clock when the thread was last accounted
  std::optional<std::uint64_t> sum_exec_runtime_ns;
  std::optional<std::uint64_t> switches;
  std::optional<std::uint64_t> voluntary_switches;  // how often it went to sleep or stopped
};

// Unknown lines are skipped; a known one that is malformed is an error.
Result<SchedInfo> parse_sched(std::string_view text);

}  // namespace stasis::kernel
