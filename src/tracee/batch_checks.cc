// SPDX-License-Identifier: Apache-2.0
#include "tracee/batch_checks.h"

#include <fmt/core.h>

#include <cerrno>
#include <utility>

namespace stasis {

void BatchChecks::add(std::size_t index, std::string what, std::string needs) {
  checks_.push_back({index, std::nullopt, std::move(what), std::move(needs)});
}

void BatchChecks::add_equal(std::size_t index, std::int64_t expected, std::string what, std::string needs) {
  checks_.push_back({index, expected, std::move(what), std::move(needs)});
}

Result<void> BatchChecks::verify(const Batch& batch) const {
  for (const Check& check : checks_) {
    Result<std::int64_t> result = batch.check(check.index, check.what);
    if (!result) {
      Error error = std::move(result).error();
      if (check.needs.empty() || (error.sys_errno() != EPERM && error.sys_errno() != EACCES)) return error;
      return std::move(error).with_code(Errc::kMissingCapability).with_help("needs " + check.needs);
    }
    if (!check.expected || *result == *check.expected) continue;
    Error error(check.needs.empty() ? Errc::kSystem : Errc::kMissingCapability,
                fmt::format("{}: the kernel answers {} where {} was expected", check.what, *result, *check.expected));
    if (check.needs.empty()) return error;
    return std::move(error).with_help("needs " + check.needs);
  }
  return {};
}

}  // namespace stasis
