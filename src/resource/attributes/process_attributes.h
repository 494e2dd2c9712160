// SPDX-License-Identifier: Apache-2.0
// ProcessAttributes: what the kernel keeps for a whole process (its thread group or its address space) besides memory,
// files, signals, limits and timers.
//
// Checkpoint: six calls in the carrier's batch and three small /proc files (10 us each).
//
// Restart, in this order:
//   restore_memory_attributes()   before the memory is mapped and before other threads exist
//   apply_process_attributes()    from outside, while the process is still dumpable
//   restore_process_attributes()  in the last batch of the process, after every thread has its credentials (a change of
//                                 credentials resets dumpable) and all code is mapped (MDWE refuses to map more)
//
// Noted only: cgroup membership.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "kernel/proc_dir.h"
#include "resource/credentials/image_owner.h"
#include "stasis/image_schema.h"
#include "stasis/result.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

struct ProcessAttributes {
  std::uint32_t dumpable = 1;  // PR_GET_DUMPABLE: 0, 1, or 2 (root only)
  bool child_subreaper = false;
  std::uint32_t thp_disable = 0;                 // PR_GET_THP_DISABLE: 0, 1, or 1 | its flags
  bool memory_merge = false;                     // PR_SET_MEMORY_MERGE
  std::uint32_t mdwe = 0;                        // PR_MDWE_*
  std::uint64_t untag_mask = ~std::uint64_t{0};  // address bits that count; all: no tagged addresses
  std::int32_t oom_score_adj = 0;
  std::uint32_t coredump_filter = 0;
  std::vector<std::string> cgroups;  // lines of /proc/PID/cgroup

  bool operator==(const ProcessAttributes&) const = default;
  static constexpr auto fields() {
    using A = ProcessAttributes;
    return std::tuple{field<1>("dumpable", &A::dumpable),
                      field<2>("child_subreaper", &A::child_subreaper),
                      field<3>("thp_disable", &A::thp_disable),
                      field<4>("memory_merge", &A::memory_merge),
                      field<5>("mdwe", &A::mdwe),
                      field<6>("untag_mask", &A::untag_mask, Show::kHex),
                      field<7>("oom_score_adj", &A::oom_score_adj),
                      field<8>("coredump_filter", &A::coredump_filter, Show::kHex),
                      field<9>("cgroups", &A::cgroups, MaxLength{64})};
  }
};

// Those that are read from /proc.
struct OutsideAttributes {
  std::int32_t oom_score_adj = 0;
  std::uint32_t coredump_filter = 0;
  std::vector<std::string> cgroups;

  static Result<OutsideAttributes> read(const kernel::ProcDir& proc);
};

// Appends 6 calls to the carrier's batch; take() after it ran.
class ProcessAttributeQuery {
 public:
  explicit ProcessAttributeQuery(Batch& batch);
  // A feature that this kernel lacks keeps its default.
  Result<ProcessAttributes> take(const Batch& batch, const OutsideAttributes& outside) const;

 private:
  std::size_t first_ = 0;
  GateValue<std::int32_t> subreaper_;
  GateValue<std::uint64_t> untag_mask_;
};

// Each appends what turns `inherited` into `wanted` (see above for when). What can't be undone (MDWE of the caller)
// stays. A dumpable of 2, which nobody may set, becomes 0. Room: 4 calls.
void restore_memory_attributes(const ProcessAttributes& wanted, const ProcessAttributes& inherited, Batch& batch,
                               BatchChecks& checks);
void restore_process_attributes(const ProcessAttributes& wanted, const ProcessAttributes& inherited, Batch& batch,
                                BatchChecks& checks);

// From the coordinator: oom_score_adj and coredump_filter; reads first, writes what differs.
Result<void> apply_process_attributes(const ProcessAttributes& wanted, const kernel::ProcDir& proc);

// Refuses (kRefused) what the owner of the image could not set himself, starting from `inherited`.
Result<void> check_process_attributes(const ProcessAttributes& wanted, const ProcessAttributes& inherited,
                                      const ImageOwner& owner);

}  // namespace stasis
