// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

int main(int argc, char** argv) {
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
    return stasis::cli::flush_output(stasis::cli::report_usage_error(error, {argv + 1, argv + argc}));
  }
  return stasis::cli::flush_output(status);
}
