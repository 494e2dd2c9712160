// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <charconv>
#include <map>
#include <memory>

#include "cli/command.h"
#include "cli/progress.h"
#include "engine/restart_session.h"

namespace stasis::cli {
namespace {

struct Options {
  std::string image;
  bool detach = false, lazy = false, json = false;
  std::string pidfile;
  PidsPolicy pids = PidsPolicy::kAuto;
  FilePolicy files = FilePolicy::kStrict;
  std::vector<std::string> inherit_fds;
  std::string timeout = "30s";
};

// "N=M"
bool parse_pair(const std::string& text, int& n, int& m) {
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, n);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '=') return false;
  const auto second = std::from_chars(first.ptr + 1, end, m);
  return second.ec == std::errc() && second.ptr == end && n >= 0 && m >= 0;
}

CLI::Validator pair_validator() {
  return CLI::Validator(
      [](std::string& text) {
        int n = 0, m = 0;
        return parse_pair(text, n, m) ? std::string() : "'" + text + "' is not of the form N=M";
      },
      "N=M");
}

// Each descriptor of the program once.
Result<std::map<int, int>> inherited_descriptors(const std::vector<std::string>& texts) {
  std::map<int, int> pairs;
  for (const std::string& text : texts) {
    int n = 0, m = 0;
    if (!parse_pair(text, n, m) || pairs.emplace(n, m).second || pairs[n] == m) continue;
    return Error(Errc::kUsage, fmt::format("--inherit-fd {}={} and {}={} contradict each other", n, pairs[n], n, m));
  }
  return pairs;
}

// What is wrong with an image is said with its name.
Error with_image(Error error, const Options& options) {
  constexpr int kBadImageStatus = 4;
  const std::string name = options.image == "-" ? "standard input" : options.image;
  const bool named = error.message().find(name) != std::string::npos;
  if (named || errc_info(error.code()).exit_status != kBadImageStatus) return error;
  return std::move(error).note(name);
}

int run(const Options& options) {
  install_cancellation();
  Progress progress("restoring");
  RestartRequest request{.image = options.image, .pids = options.pids, .pidfile = options.pidfile};
  request.detach = options.detach ? Detach::kYes : Detach::kNo;
  request.filling = options.lazy ? RestartRequest::Filling::kLazy : RestartRequest::Filling::kBefore;
  request.policy.files = options.files;
  auto inherited = inherited_descriptors(options.inherit_fds);
  if (!inherited) return report_error(inherited.error(), options.json ? Output::kJson : Output::kText);
  request.policy.inherit_fds = *std::move(inherited);
  request.timeout = parse_duration(options.timeout);
  request.cancelled = &cancelled();
  request.progress = progress.hook();
  request.filled = [&progress] { progress.finish(); };
  if (options.json) {
    request.running = [](HostPid root, const RestartReport& report) {
      print_json({{"pid", root.value()},
                  {"processes", report.processes},
                  {"threads", report.threads},
                  {"pages", report.pages},
                  {"lazy_pages", report.lazy_pages},
                  {"bytes", report.bytes},
                  {"objects", report.objects},
                  {"clear_us", report.clear_us},
                  {"total_us", report.total_us}});
    };
  }
  const auto end = restart(request);
  if (!end) {
    const int status = report_error(with_image(end.error(), options), options.json ? Output::kJson : Output::kText);
    return options.detach ? status : kForegroundFailure;
  }
  return end_as(*end);
}

}  // namespace

void add_restart(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* const verb = app.add_subcommand("restart", "Let a saved program go on");
  verb->add_option("IMAGE", options->image, "Image to restart; - is standard input")->required();
  verb->add_flag("--detach", options->detach, "Return once the program runs");
  verb->add_flag("--lazy", options->lazy, "Run at once, and bring large memory in meanwhile (root)");
  verb->add_option("--pidfile", options->pidfile, "Write the pid of the program's first process there");
  add_choice(*verb, "--pids", options->pids,
             {{"auto", PidsPolicy::kAuto}, {"keep", PidsPolicy::kKeep}, {"namespace", PidsPolicy::kNamespace}},
             "auto, keep (the old pids), namespace (the old pids in a namespace)");
  add_file_policy(*verb, options->files);
  verb->add_option("--inherit-fd", options->inherit_fds,
                   "Bind the program's descriptor N to descriptor M of this command")
      ->check(pair_validator());
  verb->add_option("--timeout", options->timeout, "Give up when it takes longer")
      ->check(duration_validator())
      ->capture_default_str();
  verb->add_flag("--json", options->json, "Print one JSON object once the program runs");
  verb->callback([options, &status] { status = run(*options); });
}

}  // namespace stasis::cli
