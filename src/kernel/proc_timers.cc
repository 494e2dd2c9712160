// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_timers.h"

#include <signal.h>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

constexpr int kSigevThreadId = 4;

bool parse_signal(std::string_view value, PosixTimer& timer) {
  std::string_view signal;
  return text::take_until(value, '/', signal) && text::number(signal, timer.signal) &&
         text::number(value.starts_with("0x") ? value.substr(2) : value, timer.value, 16);
}

// "signal/pid.2634", "thread/tid.12", ...
bool parse_notify(std::string_view value, PosixTimer& timer) {
  std::string_view how, whom;
  if (!text::take_until(value, '/', how) || !text::take_until(value, '.', whom)) return false;
  if (how == "signal") {
    timer.notify = SIGEV_SIGNAL;
  } else if (how == "none") {
    timer.notify = SIGEV_NONE;
  } else if (how == "thread") {
    timer.notify = SIGEV_THREAD;
  } else {
    return false;
  }
  if (whom == "tid") {
    timer.notify |= kSigevThreadId;
  } else if (whom != "pid") {
    return false;
  }
  return text::number(value, timer.target);
}

}  // namespace

Result<std::vector<PosixTimer>> parse_timers(std::string_view text) {
  std::vector<PosixTimer> timers;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    std::string_view key, value;
    bool good = text::key_value(line, key, value);
    if (good && key == "ID") {
      good = text::number(value, timers.emplace_back().id);
    } else if (timers.empty()) {
      good = false;
    } else if (key == "signal") {
      good = good && parse_signal(value, timers.back());
    } else if (key == "notify") {
      good = good && parse_notify(value, timers.back());
    } else if (key == "ClockID") {
      good = good && text::number(value, timers.back().clock_id);
    }
    if (!good) return text::malformed("timers", line);
  }
  return timers;
}

}  // namespace stasis::kernel
