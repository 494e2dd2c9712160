// SPDX-License-Identifier: Apache-2.0
// Uses an installed header and something of the installed library behind it.
#include <stasis/result.h>

#include <cstdio>

int main() {
  const stasis::Result<int> result = stasis::Error(stasis::Errc::kUsage, "as expected");
  if (result.has_value() || stasis::errc_info(result.error().code()).exit_status != 2) return 1;
  std::puts(result.error().to_string().c_str());
  return 0;
}
