// SPDX-License-Identifier: Apache-2.0
// BatchChecks: what each call of a batch is expected to yield, so that a failure is reported by what it was about.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "stasis/result.h"
#include "tracee/gate.h"

namespace stasis {

// Filled beside the Batch, asked after it ran. Checks refer to calls by index, so one BatchChecks belongs to one
// filling of one batch: clear() both together. Not thread-safe.
//
//   checks.add(batch.call(SYS_umask, 022), "umask");
//   STASIS_TRY(process.run(batch, patience));
//   STASIS_TRY(checks.verify(batch));
class BatchChecks {
 public:
  // The call must not fail. `needs`, if not empty, says what helps against EPERM and EACCES ("CAP_SYS_NICE"): the error
  // is kMissingCapability then.
  void add(std::size_t index, std::string what, std::string needs = {});
  // The call must yield exactly this.
  void add_equal(std::size_t index, std::int64_t expected, std::string what, std::string needs = {});

  // The first call (in the order of adding) that failed.
  Result<void> verify(const Batch& batch) const;
  std::size_t size() const { return checks_.size(); }
  void clear() { checks_.clear(); }

 private:
  struct Check {
    std::size_t index;
    std::optional<std::int64_t> expected;
    std::string what;
    std::string needs;
  };
  std::vector<Check> checks_;
};

}  // namespace stasis
