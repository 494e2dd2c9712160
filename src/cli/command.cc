// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/printable.h"
#include "engine/foreground.h"

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
  say(stderr, "stasis: {}\n", printable(error.to_string()));
  if (output == Output::kJson) {
    print_json({{"error", std::string(info.name)},
                {"code", static_cast<int>(error.code())},
                {"message", error.message()},
                {"help", error.help()}});
  }
  return info.exit_status;
}

void print_json(const nlohmann::ordered_json& object) {
  say(stdout, "{}\n", object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  std::fflush(stdout);
}

const std::atomic<bool>& cancelled() { return g_cancelled; }

Result<void> until_cancelled(std::chrono::nanoseconds) {
  if (g_cancelled.load(std::memory_order_relaxed)) return Error(Errc::kInterrupted, "interrupted by a signal");
  return {};
}

void install_cancellation() {
  struct sigaction action{};
  action.sa_handler = cancel;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (!is_ignored(signal)) ::sigaction(signal, &action, nullptr);
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // an image that exceeds a limit is an error that can be told
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
  add_choice(verb, "--compress", options.codec, {{"none", Codec::kNone}, {"lz4", Codec::kLz4}, {"zstd", Codec::kZstd}},
             "Compression of pages: none, lz4, zstd");
  add_choice(verb, "--tcp", options.policy.tcp,
             {{"refuse", TcpPolicy::kRefuse}, {"close", TcpPolicy::kClose}, {"keep", TcpPolicy::kKeep}},
             "Connections to the outside: refuse, close, keep");
  add_choice(verb, "--unix-external", options.policy.unix_external,
             {{"refuse", UnixExternalPolicy::kRefuse},
              {"close", UnixExternalPolicy::kClose},
              {"reconnect", UnixExternalPolicy::kReconnect}},
             "Unix sockets to the outside: refuse, close, reconnect");
}

void add_file_policy(CLI::App& verb, FilePolicy& policy) {
  add_choice(verb, "--files", policy,
             {{"strict", FilePolicy::kStrict}, {"rollback", FilePolicy::kRollback}, {"relaxed", FilePolicy::kRelaxed}},
             "Files that changed: strict, rollback, relaxed");
}

CLI::Validator pid_validator() {
  return CLI::Validator(
      [](std::string& text) {
        int pid = 0;
        const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
        const bool good = error == std::errc() && rest == text.data() + text.size() && pid > 0;
        return good ? std::string() : "'" + text + "' is no pid";
      },
      "PID");
}

CLI::Validator one_of(const std::vector<std::string>& names) {
  return CLI::Validator(
      [names](std::string& text) {
        if (std::ranges::find(names, text) != names.end()) return std::string();
        return fmt::format("'{}' is none of {}", text, fmt::join(names, ", "));
      },
      "NAME");
}

int report_usage_error(const CLI::ParseError& error, const std::vector<std::string>& arguments) {
  std::string message = error.what();
  if (error.get_name() == "RequiredError" && !arguments.empty() && !arguments.front().starts_with('-') &&
      message.find("subcommand") != std::string::npos) {
    message = "there is no command '" + arguments.front() + "'";
  }
  const bool json = std::ranges::find(arguments, "--json") != arguments.end();
  return report_error(Error(Errc::kUsage, message).with_help("--help tells more"),
                      json ? Output::kJson : Output::kText);
}

int flush_output(int status) {
  const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (!failed || status != 0) return status;
  return report_error(Error::from_errno(errno ? errno : EIO, "write to standard output"), Output::kText);
}

int end_as(const ProgramEnd& end) {
  if (end.how == ProgramEnd::How::kSignalled) die_of(end.value);
  return end.value;
}

}  // namespace stasis::cli
