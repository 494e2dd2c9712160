// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include "cli/command.h"

namespace stasis::cli {
namespace {
constexpr auto kFirst = std::chrono::milliseconds(500);
constexpr auto kInterval = std::chrono::milliseconds(100);
}  // namespace

Progress::Progress(std::string what)
    : what_(std::move(what)), terminal_(::isatty(STDERR_FILENO) == 1), started_(std::chrono::steady_clock::now()) {}

ProgressHook Progress::hook() {
  if (!terminal_) return {};
  return [this](const ImageProgress& progress) { show(progress); };
}

void Progress::show(const ImageProgress& progress) {
  const auto now = std::chrono::steady_clock::now();
  if (now - started_ < kFirst || now - last_ < kInterval) return;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - started_).count();
  const double mib = static_cast<double>(progress.raw_bytes) / (1 << 20);
  say(stderr, "\rstasis: {} {:.0f} MiB, {:.0f} MiB/s\033[K", what_, mib, mib / seconds);
}

void Progress::finish() {
  if (shown_) say(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace stasis::cli
