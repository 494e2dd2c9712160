// SPDX-License-Identifier: Apache-2.0
#include "resource/limits/process_limits.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include "tracee/local_batch.h"

namespace stasis {
namespace {

std::string limit_text(std::uint64_t value) {
  return value == kernel::kUnlimited ? std::string("unlimited") : std::to_string(value);
}

}  // namespace

LimitsQuery::LimitsQuery(Batch& batch) : limits_(batch.array<kernel::Limit>(kernel::kLimitCount)) {
  for (std::size_t i = 0; i < kernel::kLimitCount; ++i) {
    const std::size_t call = batch.call(SYS_prlimit64, 0, i, 0, limits_.remote + i * sizeof(kernel::Limit));
    if (i == 0) first_ = call;
  }
}

Result<ProcessLimits> LimitsQuery::take(const Batch& batch) const {
  ProcessLimits limits;
  for (std::size_t i = 0; i < kernel::kLimitCount; ++i) {
    STASIS_TRY(batch.check(first_ + i, kernel::limit_name(i)));
    limits.soft[i] = limits_.local[i].soft;
    limits.hard[i] = limits_.local[i].hard;
  }
  return limits;
}

Result<ProcessLimits> own_limits() {
  LocalBatch local;
  const LimitsQuery query(local.batch());
  local.run();
  return query.take(local.batch());
}

void restore_limits(const ProcessLimits& wanted, const ProcessLimits& inherited, Batch& batch, BatchChecks& checks) {
  for (std::size_t i = 0; i < kernel::kLimitCount; ++i) {
    if (wanted.soft[i] == inherited.soft[i] && wanted.hard[i] == inherited.hard[i]) continue;
    const auto limit = batch.put(kernel::Limit{.soft = wanted.soft[i], .hard = wanted.hard[i]});
    std::string what = fmt::format("setting the limit '{}' to {} (hard {})", kernel::limit_name(i),
                                   limit_text(wanted.soft[i]), limit_text(wanted.hard[i]));
    std::string needs;
    if (wanted.hard[i] > inherited.hard[i]) {
      needs = fmt::format("CAP_SYS_RESOURCE, or a caller whose own hard limit is at least {} (it is {})",
                          limit_text(wanted.hard[i]), limit_text(inherited.hard[i]));
    }
    checks.add(batch.call(SYS_prlimit64, 0, i, limit, 0), std::move(what), std::move(needs));
  }
}

Result<void> check_limits(const ProcessLimits& wanted, const ProcessLimits& inherited, const ImageOwner& owner) {
  for (std::size_t i = 0; i < kernel::kLimitCount; ++i) {
    if (wanted.soft[i] > wanted.hard[i])
      return Error(Errc::kBadImage, fmt::format("limit '{}': soft above hard", kernel::limit_name(i)));
    if (owner.trust == ImageTrust::kCaller || owner.uid == 0 || wanted.hard[i] <= inherited.hard[i]) continue;
    return Error(Errc::kRefused,
                 fmt::format("the image asks for a hard limit '{}' of {}, beyond the rights of its owner",
                             kernel::limit_name(i), limit_text(wanted.hard[i])))
        .with_help("restart as the owner, or give the image to root");
  }
  return {};
}

}  // namespace stasis
