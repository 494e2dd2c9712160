// SPDX-License-Identifier: Apache-2.0
// ProcessLimits: the 16 resource limits of a process (man 2 getrlimit), asked and set by the process itself, since from
// outside even root needs CAP_SYS_RESOURCE where ids differ.
//
// Restart: in the last batch of the process that still has the coordinator's credentials; after threads (NPROC), memory
// (AS, DATA, STACK, MEMLOCK), descriptors (NOFILE), pending signals and timers (SIGPENDING), since a lower limit would
// refuse them; before apply_scheduling(), which NICE and RTPRIO permit.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <tuple>

#include "kernel/proc_limits.h"
#include "resource/credentials/image_owner.h"
#include "stasis/image_schema.h"
#include "stasis/result.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

// Indexed by RLIMIT_*; ~0 is unlimited.
struct ProcessLimits {
  std::array<std::uint64_t, kernel::kLimitCount> soft{};
  std::array<std::uint64_t, kernel::kLimitCount> hard{};

  bool operator==(const ProcessLimits&) const = default;
  static constexpr auto fields() {
    return std::tuple{field<1>("soft", &ProcessLimits::soft), field<2>("hard", &ProcessLimits::hard)};
  }
};

// Appends 16 calls (1.3 KiB with their data) to the carrier's batch; take() after it ran.
class LimitsQuery {
 public:
  explicit LimitsQuery(Batch& batch);
  Result<ProcessLimits> take(const Batch& batch) const;

 private:
  std::size_t first_ = 0;
  GateValue<kernel::Limit> limits_;
};

// Those of the calling process, which its children inherit.
Result<ProcessLimits> own_limits();

// Appends what turns `inherited` into `wanted`. A hard limit above the inherited one takes CAP_SYS_RESOURCE (in the
// first user namespace): the check fails by its name where that is missing. Room: at most 16 calls and 256 bytes.
void restore_limits(const ProcessLimits& wanted, const ProcessLimits& inherited, Batch& batch, BatchChecks& checks);

// Refuses (kRefused) hard limits that the owner of the image could not reach, starting from `inherited`; and, for any
// owner, soft limits above the hard one (kBadImage).
Result<void> check_limits(const ProcessLimits& wanted, const ProcessLimits& inherited, const ImageOwner& owner);

}  // namespace stasis
