// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <new>

#include "base/closed_streams.h"
#include "cli/command.h"

namespace {

// Do failures of ours end with a status that no program's own is taken for?
bool ends_as_the_program(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return false;
  const bool detached = std::ranges::find(arguments, "--detach") != arguments.end();
  return arguments.front() == "run" || (arguments.front() == "restart" && !detached);
}

}  // namespace

int main(int argc, char** argv) try {
  stasis::fill_closed_streams();
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  CLI::App app("Saves a running Linux program into one image, and restarts it later, here or on another machine.",
               "stasis");
  app.set_version_flag("--version", "stasis " STASIS_VERSION);
  app.require_subcommand(1);
  int status = 0;
  stasis::cli::add_checkpoint(app, status);
  stasis::cli::add_restart(app, status);
  stasis::cli::add_run(app, status);
  stasis::cli::add_inspect(app, status);
  stasis::cli::add_verify(app, status);
  stasis::cli::add_merge(app, status);
  stasis::cli::add_check(app, status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return stasis::cli::flush_output(app.exit(help));
  } catch (const CLI::ParseError& error) {
    const int usage = stasis::cli::report_usage_error(error, arguments);
    return stasis::cli::flush_output(ends_as_the_program(arguments) ? stasis::cli::kForegroundFailure : usage);
  }
  return stasis::cli::flush_output(status);
} catch (const std::bad_alloc&) {
  std::fputs("stasis: no memory is left for stasis itself (see ulimit -v, and free(1))\n", stderr);
  return 1;
}
