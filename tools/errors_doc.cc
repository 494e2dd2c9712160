// SPDX-License-Identifier: Apache-2.0
// Prints doc/errors.md from the table of error codes. A test compares the two: after a change of the table run
// `build/errors_doc > doc/errors.md`.
#include <cstdio>

#include "stasis/result.h"

int main() {
  std::puts(
      "# Errors\n\n"
      "Every error is one line: what object, whose it is, why, and what helps. With `--json` the error's code and name "
      "are on the\n"
      "standard output. Codes are stable: scripts may match on them. A foreground `stasis restart` ends with 125 "
      "instead of the\n"
      "exit status below, so that it can't be mistaken for the program's own.\n\n"
      "This page is printed by `build/errors_doc` from the table in `src/base/error.cc`.\n\n"
      "| code | name | exit status | meaning |\n|---|---|---|---|");
  for (const stasis::ErrcInfo& row : stasis::errc_table()) {
    std::printf("| %u | `%.*s` | %d | %.*s |\n", static_cast<unsigned>(row.code), static_cast<int>(row.name.size()),
                row.name.data(), row.exit_status, static_cast<int>(row.meaning.size()), row.meaning.data());
  }
  return 0;
}
