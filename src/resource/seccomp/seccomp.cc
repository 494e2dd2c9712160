// SPDX-License-Identifier: Apache-2.0
#include "resource/seccomp/seccomp.h"

#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>

#include "kernel/ptrace.h"
#include "resource/checkpoint_context.h"

namespace stasis {
namespace {

constexpr std::uint32_t kStrict = 1;  // as in /proc/PID/status

// Such a filter asks another program, by a descriptor that this one may hold: nobody would answer after a restart.
bool asks_somebody(const SeccompFilter& filter) {
  return std::ranges::any_of(filter.program, [](std::uint64_t word) {
    const auto instruction = std::bit_cast<sock_filter>(word);
    return instruction.code == (BPF_RET | BPF_K) && (instruction.k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF;
  });
}

}  // namespace

Result<SeccompRecord*> SeccompTable::read(HostPid tid, std::uint32_t mode) {
  SeccompRecord record{.strict = mode == kStrict, .filters = {}};
  while (!record.strict) {
    SeccompFilter filter;
    filter.program = STASIS_TRY(kernel::ptrace_get_seccomp_filter(tid, record.filters.size()));
    if (filter.program.empty()) break;
    filter.log =
        (STASIS_TRY(kernel::ptrace_get_seccomp_flags(tid, record.filters.size())) & SECCOMP_FILTER_FLAG_LOG) != 0;
    if (asks_somebody(filter)) {
      return Error(
          Errc::kSeccomp,
          fmt::format("thread {}: a seccomp filter of it asks another program (SECCOMP_RET_USER_NOTIF)", tid.value()));
    }
    record.filters.push_back(std::move(filter));
  }
  if (!record.strict && record.filters.empty()) {
    return Error(Errc::kSeccomp, fmt::format("the seccomp filters of thread {} can't be read", tid.value()));
  }
  const auto known = std::ranges::find_if(known_, [&](const auto& other) { return *other == record; });
  if (known != known_.end()) return known->get();
  return known_.emplace_back(std::make_unique<SeccompRecord>(std::move(record))).get();
}

Result<void> checkpoint_seccomp(void* context, ObjRef ref, void* object) {
  return CheckpointContext::of(context).write_object(ref, kind::kSeccomp, *static_cast<SeccompRecord*>(object));
}

Result<void*> restore_seccomp(void* context, ObjRef) {
  auto seccomp = std::make_unique<RestoredSeccomp>();
  seccomp->record = STASIS_TRY(RestartContext::of(context).image.read<SeccompRecord>());
  const SeccompRecord& record = seccomp->record;
  const bool empty = std::ranges::any_of(record.filters, [](const auto& filter) { return filter.program.empty(); });
  if (empty || record.strict != record.filters.empty()) {
    return Error(Errc::kBadImage, "seccomp filters that no kernel has");
  }
  return to_object(std::move(seccomp));
}

std::size_t common_filters(std::span<const SeccompRecord* const> threads) {
  if (threads.empty() || threads.front() == nullptr) return 0;
  std::size_t common = threads.front()->filters.size();
  for (const SeccompRecord* const thread : threads) {
    if (thread == nullptr) return 0;
    const auto [mine, theirs] = std::ranges::mismatch(threads.front()->filters, thread->filters);
    common = std::min(common, static_cast<std::size_t>(theirs - thread->filters.begin()));
  }
  return common;
}

Result<void> install_filters(std::span<const SeccompFilter> filters, Batch batch, const RunBatch& run) {
  for (const SeccompFilter& filter : filters) {
    batch.clear();
    const auto program = batch.array<std::uint64_t>(filter.program.size());
    std::ranges::copy(filter.program, program.local);
    const sock_fprog whole{.len = static_cast<unsigned short>(filter.program.size()),
                           .filter = reinterpret_cast<sock_filter*>(program.remote)};
    // The flag keeps the kernel from changing the speculation controls, which are restored by themselves.
    const unsigned flags = SECCOMP_FILTER_FLAG_SPEC_ALLOW | (filter.log ? SECCOMP_FILTER_FLAG_LOG : 0);
    const std::size_t call = batch.call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, batch.put(whole));
    STASIS_TRY(run(batch));
    STASIS_TRY(batch.check(call, "installing a seccomp filter"));
  }
  return {};
}

Result<void> enter_strict_mode(Batch batch, const RunBatch& run) {
  batch.clear();
  const std::size_t call = batch.call(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0);
  STASIS_TRY(run(batch));
  STASIS_TRY(batch.check(call, "entering seccomp strict mode"));
  return {};
}

}  // namespace stasis
