// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_sched.h"

#include <limits>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

// "876592.803721": milliseconds with six decimals.
bool nanoseconds(std::string_view value, std::optional<std::uint64_t>& result) {
  std::string_view whole;
  std::uint64_t ms = 0, ns = 0;
  if (!text::take_until(value, '.', whole) || value.size() != 6) return false;
  if (!text::number(whole, ms) || !text::number(value, ns)) return false;
  if (ms > std::numeric_limits<std::uint64_t>::max() / 1'000'000 - 1) return false;
  result = ms * 1'000'000 + ns;
  return true;
}

}  // namespace

Result<SchedInfo> parse_sched(std::string_view text) {
  SchedInfo info;
  text::take_line(text);  // "comm (pid, #threads: n)": comm may hold a colon, or look like one of the lines below
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    std::string_view key, value;
    if (!text::key_value(line, key, value)) continue;
    bool good = true;
    if (key == "se.exec_start") {
      good = nanoseconds(value, info.exec_start_ns);
    } else if (key == "se.sum_exec_runtime") {
      good = nanoseconds(value, info.sum_exec_runtime_ns);
    } else if (key == "nr_switches") {
      good = text::number(value, info.switches.emplace());
    } else if (key == "nr_voluntary_switches") {
      good = text::number(value, info.voluntary_switches.emplace());
    }
    if (!good) return text::malformed("sched", line);
  }
  return info;
}

}  // namespace stasis::kernel
