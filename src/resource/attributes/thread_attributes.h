// SPDX-License-Identifier: Apache-2.0
// ThreadAttributes: what the kernel keeps for one thread besides registers, signals, memory, files and credentials: its
// name, scheduling, prctl(2) bits, NUMA policy and personality.
//
// Checkpoint: a dozen calls in the thread's own batch (0.2 us each), three from outside (sched_getattr,
// sched_getaffinity, ioprio_get: 0.15 us each), no /proc file.
//
// Restart: only what differs from what the fresh thread inherited is set. `inherited` is best asked by the same query
// in the first fresh task of the tree; own_thread_attributes() yields what a child of the calling thread will have.
// Order in a thread: credentials, then restore_thread_attributes() (credentials reset the parent-death signal;
// no_new_privs would refuse seccomp filters), and apply_scheduling() as late as possible, from outside.
//
// Not saved: the default timer slack (only the present one), core-scheduling cookies, autogroup.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "base/ids.h"
#include "kernel/proc_dir.h"
#include "resource/credentials/image_owner.h"
#include "stasis/image_schema.h"
#include "stasis/result.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

// What PR_GET_SPECULATION_CTRL says of each kind of speculation, in the order of PR_SPEC_*.
inline constexpr std::size_t kSpeculationKinds = 3;

struct ThreadAttributes {
  std::string name;  // comm, any bytes but NUL, at most 15
  std::int32_t nice = 0;
  std::uint32_t policy = 0;  // SCHED_*
  std::uint32_t rt_priority = 0;
  std::uint64_t sched_flags = 0;    // SCHED_FLAG_*
  std::uint64_t sched_runtime = 0;  // ns, as deadline and period; for the fair policies a time slice, 0: the default
  std::uint64_t sched_deadline = 0;
  std::uint64_t sched_period = 0;
  std::uint32_t util_min = 0;
  std::uint32_t util_max = 0;
  std::vector<std::uint64_t> affinity;  // bit n % 64 of word n / 64: CPU n
  bool all_cpus = true;                 // affinity held every CPU of the machine
  std::uint32_t io_priority = 0;        // 0: follows nice
  std::uint64_t timer_slack = 0;        // ns
  std::int32_t parent_death_signal = 0;
  bool no_new_privs = false;
  std::array<std::uint32_t, kSpeculationKinds> speculation{};
  std::uint32_t tsc_mode = 0;       // PR_TSC_*; 0: unknown
  std::uint32_t mce_policy = 0;     // PR_MCE_KILL_LATE, EARLY or DEFAULT
  bool io_flusher = false;          // false also where the thread may not ask
  std::uint32_t memory_policy = 0;  // MPOL_* with its mode flags; 0: default
  std::vector<std::uint64_t> memory_nodes;
  bool cpuid_enabled = true;
  std::uint32_t personality = 0;

  bool operator==(const ThreadAttributes&) const = default;
  static constexpr auto fields() {
    using A = ThreadAttributes;
    return std::tuple{field<1>("name", &A::name, MaxLength{15}),
                      field<2>("nice", &A::nice),
                      field<3>("policy", &A::policy),
                      field<4>("rt_priority", &A::rt_priority),
                      field<5>("sched_flags", &A::sched_flags, Show::kHex),
                      field<6>("sched_runtime", &A::sched_runtime),
                      field<7>("sched_deadline", &A::sched_deadline),
                      field<8>("sched_period", &A::sched_period),
                      field<9>("util_min", &A::util_min),
                      field<10>("util_max", &A::util_max),
                      field<11>("affinity", &A::affinity, MaxLength{1024}),
                      field<12>("all_cpus", &A::all_cpus),
                      field<13>("io_priority", &A::io_priority, Show::kHex),
                      field<14>("timer_slack", &A::timer_slack),
                      field<15>("parent_death_signal", &A::parent_death_signal),
                      field<16>("no_new_privs", &A::no_new_privs),
                      field<17>("speculation", &A::speculation),
                      field<18>("tsc_mode", &A::tsc_mode),
                      field<19>("mce_policy", &A::mce_policy),
                      field<20>("io_flusher", &A::io_flusher),
                      field<21>("memory_policy", &A::memory_policy, Show::kHex),
                      field<22>("memory_nodes", &A::memory_nodes, MaxLength{64}),
                      field<23>("cpuid_enabled", &A::cpuid_enabled),
                      field<24>("personality", &A::personality, Show::kHex)};
  }
};

// Appends 13 calls (1.1 KiB with their data) to the thread's batch; take() after it ran.
class ThreadAttributeQuery {
 public:
  explicit ThreadAttributeQuery(Batch& batch);
  // A feature that this kernel lacks keeps its default.
  Result<ThreadAttributes> take(const Batch& batch, HostPid tid) const;

 private:
  Result<void> take_scheduling(HostPid tid, ThreadAttributes& attributes) const;
  void take_optional(const Batch& batch, ThreadAttributes& attributes) const;

  std::size_t first_ = 0;
  GateValue<std::array<char, 16>> name_;
  GateValue<std::int32_t> parent_death_signal_;
  GateValue<std::int32_t> tsc_mode_;
  GateValue<std::int32_t> memory_policy_;
  GateValue<std::uint64_t> memory_nodes_;
};

// Those of the calling thread. A child inherits all but the parent-death signal, which a child starts without: 0 here.
Result<ThreadAttributes> own_thread_attributes();

enum class ParentDeath {
  kRestore,  // the parent is in the tree, or stands for the one that the task had
  kNone,     // detached: nobody's death concerns the task
};

// Appends what turns `inherited` into `wanted`, scheduling excepted. What can't be undone (no_new_privs of the caller,
// speculation disabled for good) stays. Room: at most 12 calls and 256 bytes.
void restore_thread_attributes(const ThreadAttributes& wanted, const ThreadAttributes& inherited,
                               ParentDeath parent_death, Batch& batch, BatchChecks& checks);

// From the coordinator: affinity, policy, nice, I/O priority of a (stopped) thread; reads first, sets what differs.
// CPUs that this machine lacks are left out; if none of them is here, the affinity stays inherited.
Result<void> apply_scheduling(const ThreadAttributes& wanted, HostPid tid);

// Refuses (kRefused) what the owner of the image could not set himself, starting from `inherited`.
Result<void> check_thread_attributes(const ThreadAttributes& wanted, const ThreadAttributes& inherited,
                                     const ImageOwner& owner);

}  // namespace stasis
