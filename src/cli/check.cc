// SPDX-License-Identifier: Apache-2.0
#include "engine/check.h"

#include <fmt/core.h>

#include <memory>

#include "cli/command.h"

namespace stasis::cli {
namespace {

struct Options {
  int pid = 0;  // 0: the kernel
  bool json = false;
};

// As a checkpoint would end.
int status_of(const ProcessReport& report) {
  return report.can_save() ? 0 : errc_info(report.obstacles.front().code).exit_status;
}

int check_this_kernel(const Options& options) {
  const KernelReport report = check_kernel();
  if (options.json) {
    print_json(to_json(report));
  } else {
    say(stdout, "{}", to_text(report));
  }
  return report.can_save() && report.can_restart() ? 0 : errc_info(Errc::kKernelFeature).exit_status;
}

int check_one_process(const Options& options) {
  const auto report = check_process(HostPid(options.pid), CheckpointPolicy{});
  if (!report) return report_error(report.error(), options.json ? Output::kJson : Output::kText);
  if (options.json) {
    print_json(to_json(*report));
  } else {
    say(stdout, "{}", to_text(*report));
  }
  return status_of(*report);
}

}  // namespace

void add_check(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* const verb = app.add_subcommand(
      "check", "Tell what this kernel offers, or whether a process can be saved; stops and changes nothing");
  verb->add_option("PID", options->pid, "Process to look at; without it, the kernel")->check(pid_validator());
  verb->add_flag("--json", options->json, "Print one JSON object");
  verb->callback(
      [options, &status] { status = options->pid == 0 ? check_this_kernel(*options) : check_one_process(*options); });
}

}  // namespace stasis::cli
