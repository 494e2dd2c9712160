// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

#include <fmt/core.h>
#include <signal.h>

#include <charconv>
#include <cmath>
#include <optional>

namespace stasis::cli {
namespace {

std::atomic<bool> g_cancelled{false};

void cancel(int) { g_cancelled.store(true, std::memory_order_relaxed); }

std::optional<std::chrono::nanoseconds> duration_from(std::string_view text) {
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
  const std::string_view unit(rest, text.data() + text.size());
  double seconds = 0;
  if (unit.empty() || unit == "s") {
    seconds = value;
  } else if (unit == "ms") {
    seconds = value / 1000;
  } else if (unit == "m") {
    seconds = value * 60;
  } else if (unit == "h") {
    seconds = value * 3600;
  } else {
    return std::nullopt;
  }
  if (seconds > 1e9) return std::nullopt;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
}

}  // namespace

int report_error(const Error& error, Output output) {
  const ErrcInfo& info = errc_info(error.code());
  fmt::print(stderr, "stasis: {}\n", error.to_string());
  if (output == Output::kJson) {
    print_json({{"error", std::string(info.name)},
                {"code", static_cast<int>(error.code())},
                {"message", error.message()},
                {"help", error.help()}});
  }
  return info.exit_status;
}

void print_json(const nlohmann::ordered_json& object) {
  fmt::print("{}\n", object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  std::fflush(stdout);
}

const std::atomic<bool>& cancelled() { return g_cancelled; }

void install_cancellation() {
  struct sigaction action{};
  action.sa_handler = cancel;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

std::chrono::nanoseconds parse_duration(const std::string& text) {
  return duration_from(text).value_or(std::chrono::seconds(0));
}

CLI::Validator duration_validator() {
  return CLI::Validator(
      [](std::string& text) {
        return duration_from(text) ? std::string() : "'" + text + "' is no duration such as 10s";
      },
      "DURATION");
}

}  // namespace stasis::cli
