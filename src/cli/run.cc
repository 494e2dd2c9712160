// SPDX-License-Identifier: Apache-2.0
#include "engine/run.h"

#include <fmt/core.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <span>

#include "base/printable.h"
#include "cli/command.h"

namespace stasis::cli {
namespace {

struct Options {
  std::string image;
  std::string every = "10m", grace = "25s", timeout = "5m";
  unsigned keep = 2;
  bool json = false, track = false;
  FilePolicy files = FilePolicy::kRollback;
  SavingOptions saving;
  std::vector<std::string> command;
};

// NAME-HASH.stasis in the working directory, the same for the same command in the same place.
std::string default_image(const std::vector<std::string>& command) {
  std::error_code unknown;
  std::string all = std::filesystem::current_path(unknown);
  for (const std::string& word : command) all += '\0' + word;
  const std::string& program = command.front();
  const std::string name = program.substr(program.rfind('/') + 1);
  return fmt::format("{}-{}.stasis", name, to_hex(hash_bytes(std::as_bytes(std::span(all)))).substr(0, 8));
}

nlohmann::ordered_json with_error(nlohmann::ordered_json object, const Error& error) {
  object["error"] = std::string(errc_info(error.code()).name);
  object["code"] = static_cast<int>(error.code());
  object["message"] = error.message();
  object["help"] = error.help();
  return object;
}

nlohmann::ordered_json with_report(nlohmann::ordered_json object, const CheckpointReport& report) {
  object["processes"] = report.processes;
  object["threads"] = report.threads;
  object["pages"] = report.pages;
  object["bytes"] = report.bytes;
  object["tracked"] = report.tracked;
  object["inherited_pages"] = report.inherited_pages;
  object["written_pages"] = report.written_pages;
  object["freeze_us"] = report.freeze_us;
  object["total_us"] = report.total_us;
  return object;
}

std::string_view name_of(RunEvent::What what) {
  using What = RunEvent::What;
  switch (what) {
    case What::kStarted:
      return "started";
    case What::kResumed:
      return "resumed";
    case What::kDamaged:
      return "image_damaged";
    case What::kSaved:
      return "saved";
    case What::kNotSaved:
      return "not_saved";
    case What::kLastSaved:
      return "last_saved";
    case What::kLastNotSaved:
      return "last_not_saved";
    case What::kTimeIsUp:
      return "time_is_up";
    case What::kNotRun:
      return "not_run";
    case What::kKept:
      return "kept";
  }
  return "unknown";
}

// Standard output is the program's.
void tell_machine(const RunEvent& event) {
  nlohmann::ordered_json object{{"event", name_of(event.what)}};
  if (event.pid) object["pid"] = event.pid.value();
  if (!event.image.empty()) object["image"] = event.image;
  if (event.report) object = with_report(std::move(object), *event.report);
  if (event.error) object = with_error(std::move(object), *event.error);
  say(stderr, "{}\n", object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

void tell_person(const RunEvent& event) {
  using What = RunEvent::What;
  const std::string why = event.error ? printable(event.error->to_string()) : std::string();
  switch (event.what) {
    case What::kStarted:
    case What::kSaved:
      return;
    case What::kResumed:
      return say(stderr, "stasis: the program goes on from {}\n", event.image);
    case What::kDamaged:
      return say(stderr, "stasis: {} can't be used, the one before it is tried: {}\n", event.image, why);
    case What::kNotSaved:
      return say(stderr, "stasis: no checkpoint this time, the program runs on: {}\n", why);
    case What::kLastSaved:
      return say(stderr, "stasis: told to end; the program is saved in {}, the next run goes on from it\n",
                 event.image);
    case What::kLastNotSaved:
      return say(stderr, "stasis: told to end, but there is no last checkpoint; the program gets SIGTERM: {}\n", why);
    case What::kTimeIsUp:
      return say(stderr, "stasis: the time is up, process {} is killed\n", event.pid.value());
    case What::kNotRun:
      return say(stderr, "stasis: {}\n", why);
    case What::kKept:
      return say(stderr, "stasis: {} stays, the next run goes on from it (remove it to start anew)\n", event.image);
  }
}

int run(const Options& options) {
  RunRequest request{.command = options.command,
                     .image = options.image.empty() ? default_image(options.command) : options.image,
                     .every = parse_duration(options.every),
                     .keep = options.keep,
                     .grace = parse_duration(options.grace),
                     .timeout = parse_duration(options.timeout),
                     .codec = options.saving.codec,
                     .track = options.track,
                     .files = options.files,
                     .policy = options.saving.policy,
                     .tell = options.json ? tell_machine : tell_person};
  const auto end = stasis::run(request);
  if (end) return end_as(*end);
  if (options.json) {
    RunEvent event{.what = RunEvent::What::kNotRun, .error = &end.error()};
    tell_machine(event);
  } else {
    report_error(end.error(), Output::kText);
  }
  return kForegroundFailure;
}

}  // namespace

void add_run(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* const verb = app.add_subcommand(
      "run", "Run a program with a checkpoint every so often, or let it go on from its image if there is one");
  verb->add_option("CMD", options->command, "Program and arguments, behind --")->required();
  verb->add_option("--image", options->image, "Image of the newest checkpoint (default: CMD-HASH.stasis)");
  verb->add_option("--every", options->every, "From one checkpoint to the next; 0: only at SIGTERM")
      ->check(duration_validator())
      ->capture_default_str();
  constexpr unsigned kMostImages = 10000;
  verb->add_option("--keep", options->keep, "How many images stay: FILE and older ones as FILE.N")
      ->check(CLI::Range(1u, kMostImages))
      ->capture_default_str();
  verb->add_option("--grace", options->grace, "At SIGTERM: end within that time, last checkpoint included")
      ->check(duration_validator())
      ->capture_default_str();
  verb->add_option("--timeout", options->timeout, "Give a checkpoint up when it takes longer")
      ->check(duration_validator())
      ->capture_default_str();
  verb->add_flag("--track", options->track,
                 "Let the kernel tell what the program writes: each checkpoint is a difference to the one before. Not "
                 "for programs that call mremap(2) over several mappings, or userfaultfd(2) themselves");
  add_file_policy(*verb, options->files);
  add_saving_options(*verb, options->saving);
  verb->add_flag("--json", options->json, "Events on stderr, each a JSON object in a line");
  verb->footer(
      "SIGTERM: the program is saved a last time and ended; the next run goes on from there. Other signals are passed "
      "on. Ends with the program's own status. Status 0 removes the images; after any other end they stay.");
  verb->callback([options, &status] { status = run(*options); });
}

}  // namespace stasis::cli
