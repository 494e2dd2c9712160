// SPDX-License-Identifier: Apache-2.0
// Credentials of a thread: ids, supplementary groups, capability sets, securebits (man 7 credentials, 7 capabilities).
//
// Checkpoint. Nearly always all threads of a process have the same credentials, and /proc/PID/task/TID/status (9 us) is
// the only source of the bounding and ambient sets. So each thread is asked for what a few calls tell (0.2 us each),
// and status is read once for each distinct answer. Threads that differ *only* in the bounding set are not told apart.
//
// Ids are those that the coordinator sees. In a user namespace made by Stasis (ids mapped to themselves) they are the
// task's own, too.
//
// Restart, in the thread itself, in its batch; before no_new_privs, the parent-death signal and PR_SET_DUMPABLE (which
// a change of credentials resets), after everything that needs the coordinator's rights. When the inherited credentials
// are the wanted ones, nothing is called at all. In a user namespace setgroups(2) is denied: there the groups must be
// those of the caller, or fewer; a task then keeps the caller's.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "kernel/proc_dir.h"
#include "resource/credentials/image_owner.h"
#include "stasis/image_schema.h"
#include "stasis/result.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

// Ids in the order real, effective, saved, filesystem. Capability n is bit n.
struct Credentials {
  std::array<std::uint32_t, 4> uids{};
  std::array<std::uint32_t, 4> gids{};
  std::vector<std::uint32_t> groups;  // ascending
  std::uint64_t inheritable = 0;
  std::uint64_t permitted = 0;
  std::uint64_t effective = 0;
  std::uint64_t bounding = 0;
  std::uint64_t ambient = 0;
  std::uint32_t securebits = 0;  // SECBIT_*, SECBIT_KEEP_CAPS included

  bool operator==(const Credentials&) const = default;
  static constexpr auto fields() {
    return std::tuple{field<1>("uids", &Credentials::uids),
                      field<2>("gids", &Credentials::gids),
                      field<3>("groups", &Credentials::groups, MaxLength{65536}),
                      field<4>("inheritable", &Credentials::inheritable, Show::kHex),
                      field<5>("permitted", &Credentials::permitted, Show::kHex),
                      field<6>("effective", &Credentials::effective, Show::kHex),
                      field<7>("bounding", &Credentials::bounding, Show::kHex),
                      field<8>("ambient", &Credentials::ambient, Show::kHex),
                      field<9>("securebits", &Credentials::securebits, Show::kHex)};
  }
};

// From a status file, which lacks the securebits.
Credentials credentials_from_status(const kernel::ProcStatus& status, std::uint32_t securebits);

// Everything that a few calls in a thread tell of its credentials; equal answers mean equal credentials.
struct CredentialAnswer {
  static constexpr std::size_t kMaxGroups = 32;
  std::array<std::uint32_t, 4> uids{};
  std::array<std::uint32_t, 4> gids{};
  std::int64_t group_count = 0;  // negative: more than kMaxGroups
  std::array<std::uint32_t, kMaxGroups> groups{};
  std::array<std::uint32_t, 6> capabilities{};
  std::uint32_t securebits = 0;
  bool operator==(const CredentialAnswer&) const = default;
};

// The distinct credentials of one process. Owned by whoever checkpoints it.
class CredentialsCache {
 public:
  const Credentials* find(const CredentialAnswer& answer) const;
  const Credentials& insert(const CredentialAnswer& answer, Credentials credentials);

 private:
  std::vector<std::pair<CredentialAnswer, Credentials>> known_;
};

// Appends 7 calls (0.7 KiB with their data) to a thread's batch; take() after it ran. REQUIRES: a batch that goes on
// after failures, as for all queries here.
class CredentialsQuery {
 public:
  explicit CredentialsQuery(Batch& batch);
  // Reads status only if the cache does not know the answer and it is not given. (`known`: the thread's own, as it is.)
  Result<Credentials> take(const Batch& batch, const kernel::ProcDir& proc, HostPid tid, CredentialsCache& cache,
                           const kernel::ProcStatus* known = nullptr) const;

 private:
  Result<CredentialAnswer> answer(const Batch& batch) const;

  std::size_t first_ = 0;
  GateValue<std::array<std::uint32_t, 3>> uids_;
  GateValue<std::array<std::uint32_t, 3>> gids_;
  GateValue<std::uint32_t> groups_;
  GateValue<std::uint32_t> capabilities_;
};

// May the task call setgroups(2)? Not in a user namespace that its user made (/proc/PID/setgroups says "deny").
enum class Setgroups { kAllowed, kDenied };
Result<Setgroups> read_setgroups(const kernel::ProcDir& proc);

// Appends what turns `inherited` into `wanted`; nothing if they are equal. REQUIRES: `inherited` is what the thread has
// when the batch runs. Error kMissingCapability, nothing appended: `wanted` holds capabilities that `inherited` does
// not. Room: 6 calls and one for each capability to be dropped from the bounding set or raised in the ambient set (at
// most 90 calls, 6 KiB) and the groups.
Result<void> restore_credentials(const Credentials& wanted, const Credentials& inherited, Setgroups setgroups,
                                 Batch& batch, BatchChecks& checks);

// Refuses credentials beyond those of the owner of the image (kRefused). Passes all where the caller is trusted.
// `inherited`: those of the new task, which set the measure for the bounding set together with the owner's.
Result<void> check_credentials(const Credentials& wanted, const Credentials& inherited, const ImageOwner& owner);

// "CAP_SYS_ADMIN, CAP_..." for messages.
std::string capability_names(std::uint64_t set);

}  // namespace stasis
