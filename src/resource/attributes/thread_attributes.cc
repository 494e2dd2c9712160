// SPDX-License-Identifier: Apache-2.0
#include "resource/attributes/thread_attributes.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>

#include "arch/x86_64/task_controls.h"
#include "base/log.h"
#include "base/panic.h"
#include "kernel/prctl.h"
#include "kernel/scheduling.h"
#include "tracee/local_batch.h"

namespace stasis {
namespace {

constexpr std::uint32_t kAskPersonality = 0xffff'ffff;
constexpr std::size_t kMaxNodes = 1024;  // more than any kernel is built for
constexpr std::size_t kNodeWords = kMaxNodes / 64;
constexpr std::uint32_t kSpeculationModes =
    PR_SPEC_ENABLE | PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE | PR_SPEC_DISABLE_NOEXEC;
constexpr std::uint32_t kIoClassRealTime = 1;

// The calls of the query in their order.
enum Call : std::size_t {
  kName,
  kTimerSlack,
  kParentDeathSignal,
  kNoNewPrivs,
  kPersonality,
  kSpeculation,
  kTscMode = kSpeculation + kSpeculationKinds,
  kMcePolicy,
  kIoFlusher,
  kMemoryPolicy,
  kCpuid,
};

std::size_t prctl(Batch& batch, int option, std::uint64_t a = 0, std::uint64_t b = 0) {
  return batch.call(SYS_prctl, option, a, b, 0, 0);
}

bool fair(std::uint32_t policy) {
  return policy == kernel::kSchedOther || policy == kernel::kSchedBatch || policy == kernel::kSchedIdle;
}

std::size_t count_cpus(const kernel::CpuMask& mask) {
  std::size_t count = 0;
  for (const std::uint64_t word : mask) count += static_cast<std::size_t>(std::popcount(word));
  return count;
}

std::size_t online_cpus() {
  static const long count = ::sysconf(_SC_NPROCESSORS_ONLN);
  return static_cast<std::size_t>(std::max(count, 1L));
}

Result<std::uint64_t> usual_slice() {
  static std::atomic<std::uint64_t> known = 0;
  if (known == 0) known = STASIS_TRY(kernel::get_sched_attr(HostPid(0))).runtime;
  return known.load();
}

Result<void> apply_affinity(const ThreadAttributes& wanted, HostPid tid) {
  const kernel::CpuMask present = STASIS_TRY(kernel::get_affinity(tid));
  if (wanted.all_cpus) {
    if (count_cpus(present) >= online_cpus()) return {};
    const auto configured = static_cast<std::size_t>(std::max(::sysconf(_SC_NPROCESSORS_CONF), 1L));
    return kernel::set_affinity(tid, kernel::CpuMask(configured / 64 + 1, ~std::uint64_t{0}));
  }
  if (wanted.affinity == present) return {};
  Result<void> set = kernel::set_affinity(tid, wanted.affinity);
  if (set || set.error().sys_errno() != EINVAL) return set;
  log::info("attributes", "thread {}: none of the CPUs it was bound to is here; not bound", tid.value());
  return {};
}

Result<void> apply_policy(const ThreadAttributes& wanted, HostPid tid) {
  const kernel::SchedAttr present = STASIS_TRY(kernel::get_sched_attr(tid));
  const bool slice_matters = wanted.sched_runtime != 0 && wanted.sched_runtime != present.runtime;
  const bool clamp_matters = present.util_max != 0 && wanted.util_max != 0 &&
                             (wanted.util_min != present.util_min || wanted.util_max != present.util_max);
  if ((!fair(wanted.policy) || wanted.policy == SCHED_IDLE) && STASIS_TRY(kernel::get_nice(tid)) != wanted.nice)
    STASIS_TRY(kernel::set_nice(tid, wanted.nice));
  const bool same = wanted.policy == present.policy && wanted.sched_flags == present.flags &&
                    (!fair(wanted.policy) || wanted.nice == present.nice) && wanted.rt_priority == present.priority &&
                    (fair(wanted.policy) || wanted.sched_runtime == present.runtime) &&
                    wanted.sched_deadline == present.deadline && wanted.sched_period == present.period;
  if (same && !slice_matters && !clamp_matters) return {};
  return kernel::set_sched_attr(
      tid, {.policy = wanted.policy,
            .flags = (wanted.sched_flags & ~kernel::kSchedUtilClamp) | (clamp_matters ? kernel::kSchedUtilClamp : 0),
            .nice = wanted.nice,
            .priority = wanted.rt_priority,
            .runtime = wanted.sched_runtime,
            .deadline = wanted.sched_deadline,
            .period = wanted.sched_period,
            .util_min = clamp_matters ? wanted.util_min : 0,
            .util_max = clamp_matters ? wanted.util_max : 0});
}

void restore_speculation(const ThreadAttributes& wanted, const ThreadAttributes& inherited, Batch& batch,
                         BatchChecks& checks) {
  for (std::size_t kind = 0; kind < kSpeculationKinds; ++kind) {
    const std::uint32_t mode = wanted.speculation[kind] & kSpeculationModes;
    const bool controlled = (wanted.speculation[kind] & inherited.speculation[kind] & PR_SPEC_PRCTL) != 0;
    const bool fixed = (inherited.speculation[kind] & PR_SPEC_FORCE_DISABLE) != 0;
    if (!controlled || fixed || mode == 0 || mode == (inherited.speculation[kind] & kSpeculationModes)) continue;
    checks.add(batch.call(SYS_prctl, PR_SET_SPECULATION_CTRL, kind, mode, 0, 0), "setting the speculation control");
  }
}

void restore_memory_policy(const ThreadAttributes& wanted, const ThreadAttributes& inherited, Batch& batch,
                           BatchChecks& checks) {
  if (wanted.memory_policy == inherited.memory_policy && wanted.memory_nodes == inherited.memory_nodes) return;
  const std::size_t words = wanted.memory_nodes.size();
  const auto nodes = batch.array<std::uint64_t>(std::max<std::size_t>(words, 1));
  std::ranges::copy(wanted.memory_nodes, nodes.local);
  const std::uint64_t address = words == 0 ? 0 : nodes.remote;
  const std::uint64_t bits = words == 0 ? 0 : words * 64 + 1;  // the kernel takes one off
  checks.add(batch.call(SYS_set_mempolicy, wanted.memory_policy, address, bits),
             "setting the NUMA memory policy (are its nodes here?)");
}

}  // namespace

ThreadAttributeQuery::ThreadAttributeQuery(Batch& batch) {
  STASIS_INVARIANT(batch.on_error() == Batch::OnError::kContinue);  // what a kernel lacks fails
  name_ = batch.array<std::array<char, 16>>(1);
  parent_death_signal_ = batch.array<std::int32_t>(1);
  tsc_mode_ = batch.array<std::int32_t>(1);
  memory_policy_ = batch.array<std::int32_t>(1);
  memory_nodes_ = batch.array<std::uint64_t>(kNodeWords);
  first_ = prctl(batch, PR_GET_NAME, name_.remote);
  prctl(batch, PR_GET_TIMERSLACK);
  prctl(batch, PR_GET_PDEATHSIG, parent_death_signal_.remote);
  prctl(batch, PR_GET_NO_NEW_PRIVS);
  batch.call(SYS_personality, kAskPersonality);
  for (std::size_t kind = 0; kind < kSpeculationKinds; ++kind) prctl(batch, PR_GET_SPECULATION_CTRL, kind);
  prctl(batch, PR_GET_TSC, tsc_mode_.remote);
  prctl(batch, PR_MCE_KILL_GET);
  prctl(batch, PR_GET_IO_FLUSHER);
  batch.call(SYS_get_mempolicy, memory_policy_, memory_nodes_, kMaxNodes, 0, 0);
  batch.call(arch::kArchPrctl, arch::kGetCpuid, 0);
}

Result<ThreadAttributes> ThreadAttributeQuery::take(const Batch& batch, HostPid tid) const {
  ThreadAttributes attributes;
  STASIS_TRY(batch.check(first_ + kName, "prctl(PR_GET_NAME)"));
  const std::array<char, 16> name = *name_;
  attributes.name.assign(name.data(), ::strnlen(name.data(), name.size() - 1));
  attributes.timer_slack =
      static_cast<std::uint64_t>(STASIS_TRY(batch.check(first_ + kTimerSlack, "prctl(PR_GET_TIMERSLACK)")));
  STASIS_TRY(batch.check(first_ + kParentDeathSignal, "prctl(PR_GET_PDEATHSIG)"));
  attributes.parent_death_signal = *parent_death_signal_;
  attributes.no_new_privs = STASIS_TRY(batch.check(first_ + kNoNewPrivs, "prctl(PR_GET_NO_NEW_PRIVS)")) != 0;
  attributes.personality = static_cast<std::uint32_t>(STASIS_TRY(batch.check(first_ + kPersonality, "personality")));
  take_optional(batch, attributes);
  STASIS_TRY(take_scheduling(tid, attributes));
  return attributes;
}

void ThreadAttributeQuery::take_optional(const Batch& batch, ThreadAttributes& attributes) const {
  auto value_or = [&](std::size_t call, std::uint32_t otherwise) {
    const std::int64_t result = batch.result(first_ + call);
    return result < 0 ? otherwise : static_cast<std::uint32_t>(result);
  };
  for (std::size_t kind = 0; kind < kSpeculationKinds; ++kind)
    attributes.speculation[kind] = value_or(kSpeculation + kind, 0);
  if (batch.result(first_ + kTscMode) == 0) attributes.tsc_mode = static_cast<std::uint32_t>(*tsc_mode_);
  attributes.mce_policy = value_or(kMcePolicy, PR_MCE_KILL_DEFAULT);
  attributes.io_flusher =
      value_or(kIoFlusher, 0) != 0;  // EPERM: it has not CAP_SYS_RESOURCE, which turning it on takes
  attributes.cpuid_enabled = value_or(kCpuid, 1) != 0;
  if (batch.result(first_ + kMemoryPolicy) != 0) return;
  attributes.memory_policy = static_cast<std::uint32_t>(*memory_policy_);
  attributes.memory_nodes.assign(memory_nodes_.local, memory_nodes_.local + kNodeWords);
  while (!attributes.memory_nodes.empty() && attributes.memory_nodes.back() == 0) attributes.memory_nodes.pop_back();
}

Result<void> ThreadAttributeQuery::take_scheduling(HostPid tid, ThreadAttributes& attributes) const {
  const kernel::SchedAttr sched = STASIS_TRY(kernel::get_sched_attr(tid));
  attributes.policy = sched.policy;
  attributes.nice = fair(sched.policy) ? sched.nice : STASIS_TRY(kernel::get_nice(tid));
  attributes.rt_priority = sched.priority;
  attributes.sched_flags = sched.flags;
  attributes.sched_runtime = sched.runtime;
  attributes.sched_deadline = sched.deadline;
  attributes.sched_period = sched.period;
  attributes.util_min = sched.util_min;
  attributes.util_max = sched.util_max;
  // The default time slice depends on the machine: it is saved as 0.
  if (fair(sched.policy) && sched.runtime == STASIS_TRY(usual_slice())) attributes.sched_runtime = 0;
  attributes.affinity = STASIS_TRY(kernel::get_affinity(tid));
  attributes.all_cpus = count_cpus(attributes.affinity) >= online_cpus();
  attributes.io_priority = STASIS_TRY(kernel::get_io_priority(tid));
  return {};
}

Result<ThreadAttributes> own_thread_attributes() {
  LocalBatch local;
  const ThreadAttributeQuery query(local.batch());
  local.run();
  ThreadAttributes attributes = STASIS_TRY(query.take(local.batch(), HostPid(0)));
  attributes.parent_death_signal = 0;
  return attributes;
}

void restore_thread_attributes(const ThreadAttributes& wanted, const ThreadAttributes& inherited,
                               ParentDeath parent_death, Batch& batch, BatchChecks& checks) {
  if (wanted.personality != inherited.personality)
    checks.add(batch.call(SYS_personality, wanted.personality), "setting the personality");
  if (wanted.name != inherited.name)
    checks.add(prctl(batch, PR_SET_NAME, batch.text(wanted.name).remote), "setting the thread's name");
  if (wanted.timer_slack != inherited.timer_slack && wanted.timer_slack != 0)
    checks.add(prctl(batch, PR_SET_TIMERSLACK, wanted.timer_slack), "setting the timer slack");
  restore_speculation(wanted, inherited, batch, checks);
  if (wanted.tsc_mode != inherited.tsc_mode && wanted.tsc_mode != 0)
    checks.add(prctl(batch, PR_SET_TSC, wanted.tsc_mode), "setting the time-stamp counter mode");
  if (wanted.cpuid_enabled != inherited.cpuid_enabled)
    checks.add(batch.call(arch::kArchPrctl, arch::kSetCpuid, wanted.cpuid_enabled ? 1 : 0), "setting CPUID faulting");
  if (wanted.mce_policy != inherited.mce_policy) {
    const bool standard = wanted.mce_policy == PR_MCE_KILL_DEFAULT;
    checks.add(
        prctl(batch, PR_MCE_KILL, standard ? PR_MCE_KILL_CLEAR : PR_MCE_KILL_SET, standard ? 0 : wanted.mce_policy),
        "setting the machine-check policy");
  }
  if (wanted.io_flusher != inherited.io_flusher) {
    checks.add(prctl(batch, PR_SET_IO_FLUSHER, wanted.io_flusher ? 1 : 0), "setting the I/O flusher state",
               "CAP_SYS_RESOURCE");
  }
  restore_memory_policy(wanted, inherited, batch, checks);
  const int death_signal = parent_death == ParentDeath::kRestore ? wanted.parent_death_signal : 0;
  if (death_signal != inherited.parent_death_signal)
    checks.add(prctl(batch, PR_SET_PDEATHSIG, static_cast<std::uint64_t>(death_signal)),
               "setting the parent-death signal");
  if (wanted.no_new_privs && !inherited.no_new_privs)
    checks.add(prctl(batch, PR_SET_NO_NEW_PRIVS, 1), "setting no_new_privs");
}

Result<void> apply_scheduling(const ThreadAttributes& wanted, HostPid tid) {
  STASIS_TRY(apply_affinity(wanted, tid));  // a deadline policy demands its affinity beforehand
  STASIS_TRY(apply_policy(wanted, tid));
  if (STASIS_TRY(kernel::get_io_priority(tid)) != wanted.io_priority)
    STASIS_TRY(kernel::set_io_priority(tid, wanted.io_priority));
  return {};
}

Result<void> check_thread_attributes(const ThreadAttributes& wanted, const ThreadAttributes& inherited,
                                     const ImageOwner& owner) {
  if (owner.trust == ImageTrust::kCaller || owner.uid == 0) return {};
  auto refused = [](std::string what) {
    return Error(Errc::kRefused, "the image asks for " + what + ", beyond the rights of its owner")
        .with_help("restart as the owner, or give the image to root");
  };
  if (!fair(wanted.policy)) return refused(fmt::format("scheduling policy {}", wanted.policy));
  if (wanted.nice < inherited.nice) return refused(fmt::format("nice {}", wanted.nice));
  if (kernel::io_priority_class(wanted.io_priority) == kIoClassRealTime) return refused("real-time I/O priority");
  if (wanted.io_flusher && !inherited.io_flusher) return refused("the I/O flusher state");
  return {};
}

}  // namespace stasis
