// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <string>

#include "cli/command.h"

int main(int argc, char** argv) {
  constexpr int kUsage = 2;
  CLI::App app("Saves a running Linux program into one image, and restarts it later, here or on another machine.",
               "stasis");
  app.set_version_flag("--version", "stasis " STASIS_VERSION);
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return "stasis: " + std::string(error.what()) + " (--help tells more)\n";
  });
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
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  return status;
}
