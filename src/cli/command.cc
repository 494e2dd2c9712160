// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

#include <fmt/core.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <map>
#include <optional>

namespace stasis::cli {
namespace {

std::atomic<bool> g_cancelled{false};

void cancel(int) { g_cancelled.store(true, std::memory_order_relaxed); }

std::optional<double> unit_in_seconds(std::string_view unit) {
  if (unit == "ms") return 1e-3;
  if (unit == "s") return 1;
  if (unit == "m") return 60;
  if (unit == "h") return 3600;
  if (unit == "d") return 86400;
  return std::nullopt;
}

// One or more numbers with their units; the last may stand for seconds.
std::optional<std::chrono::nanoseconds> duration_from(std::string_view text) {
  double seconds = 0;
  do {
    double value = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    if (error != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(rest - text.data()));
    const std::string_view unit = text.substr(0, text.find_first_of("0123456789."));
    text.remove_prefix(unit.size());
    const auto factor = unit_in_seconds(unit.empty() && text.empty() ? "s" : unit);
    if (!factor) return std::nullopt;
    seconds += value * *factor;
  } while (!text.empty());
  if (seconds > 1e9) return std::nullopt;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
}

// Dies of the signal; there is no core of ours to be had.
[[noreturn]] void die_of(int signal) {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::signal(signal, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
  ::raise(signal);
  ::_exit(128 + signal);
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
        return duration_from(text) ? std::string() : "'" + text + "' is no duration such as 90s, 10m or 1h";
      },
      "DURATION");
}

void add_saving_options(CLI::App& verb, SavingOptions& options) {
  verb.add_option("--compress", options.codec, "Compression of pages: none, lz4, zstd")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Codec>{{"none", Codec::kNone}, {"lz4", Codec::kLz4}, {"zstd", Codec::kZstd}}));
  verb.add_option("--tcp", options.policy.tcp, "Connections to the outside: refuse, close, keep")
      ->transform(CLI::CheckedTransformer(std::map<std::string, TcpPolicy>{
          {"refuse", TcpPolicy::kRefuse}, {"close", TcpPolicy::kClose}, {"keep", TcpPolicy::kKeep}}));
  verb.add_option("--unix-external", options.policy.unix_external,
                  "Unix sockets to the outside: refuse, close, reconnect")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, UnixExternalPolicy>{{"refuse", UnixExternalPolicy::kRefuse},
                                                    {"close", UnixExternalPolicy::kClose},
                                                    {"reconnect", UnixExternalPolicy::kReconnect}}));
}

int end_as(const ProgramEnd& end) {
  if (end.how == ProgramEnd::How::kSignalled) die_of(end.value);
  return end.value;
}

}  // namespace stasis::cli
