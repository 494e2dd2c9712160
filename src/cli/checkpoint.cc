// SPDX-License-Identifier: Apache-2.0
#include "engine/checkpoint.h"

#include <fmt/core.h>

#include <memory>

#include "cli/command.h"
#include "cli/progress.h"

namespace stasis::cli {
namespace {

struct Options {
  int pid = 0;
  std::string output, parent;
  bool leave_running = false, kill = false, stop = false, json = false;
  SnapshotMode snapshot = SnapshotMode::kAuto;
  std::string timeout = "10s";
  SavingOptions saving;
};

std::vector<std::pair<std::string, SnapshotMode>> snapshot_choices() {
  using enum SnapshotMode;
  std::vector<std::pair<std::string, SnapshotMode>> choices;
  for (const SnapshotMode mode : {kAuto, kCow, kWp, kPrecopy, kFreeze}) choices.emplace_back(name_of(mode), mode);
  return choices;
}

int run(const Options& options) {
  install_cancellation();
  Progress progress("saving");
  CheckpointRequest request{.pid = HostPid(options.pid), .output = options.output, .codec = options.saving.codec};
  request.after = options.kill   ? AfterCheckpoint::kKill
                  : options.stop ? AfterCheckpoint::kStop
                                 : AfterCheckpoint::kLeaveRunning;
  request.snapshot = options.snapshot;
  request.parent = options.parent;
  request.timeout = parse_duration(options.timeout);
  request.policy = options.saving.policy;
  request.progress = progress.hook();
  request.cancelled = &cancelled();
  // With "-" standard output is the image's.
  const Output output = options.json && options.output != "-" ? Output::kJson : Output::kText;
  const auto report = checkpoint(request);
  progress.finish();
  if (!report) return report_error(report.error(), output);
  const nlohmann::ordered_json object{{"image", options.output},
                                      {"processes", report->processes},
                                      {"threads", report->threads},
                                      {"pages", report->pages},
                                      {"inherited_pages", report->inherited_pages},
                                      {"bytes", report->bytes},
                                      {"snapshot", name_of(report->snapshot)},
                                      {"freeze_us", report->freeze_us},
                                      {"total_us", report->total_us}};
  if (output == Output::kJson) {
    print_json(object);
  } else if (options.json) {
    say(stderr, "{}\n", object.dump());
  }
  return 0;
}

}  // namespace

void add_checkpoint(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* const verb = app.add_subcommand("checkpoint", "Save a running program into an image");
  verb->add_option("PID", options->pid, "Process to save")->required()->check(pid_validator());
  verb->add_option("-o,--output", options->output, "Image to write; - is standard output")->required();
  auto* const after = verb->add_option_group("afterwards");
  after->add_flag("--leave-running", options->leave_running, "Let the program run on (default)");
  after->add_flag("--kill", options->kill, "End the program once the image is durable");
  after->add_flag("--stop", options->stop, "Leave the program stopped (SIGCONT continues it)");
  after->require_option(0, 1);
  add_choice(*verb, "--snapshot", options->snapshot, snapshot_choices(),
             "How it can run on before its pages are written: auto, cow, wp, precopy, freeze");
  add_saving_options(*verb, options->saving);
  verb->add_option("--parent", options->parent, "Write only what differs from that image");
  verb->add_option("--timeout", options->timeout, "Give up when freezing takes longer")
      ->check(duration_validator())
      ->capture_default_str();
  verb->add_flag("--json", options->json, "Print one JSON object");
  verb->callback([options, &status] { status = run(*options); });
}

}  // namespace stasis::cli
