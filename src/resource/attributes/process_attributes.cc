// SPDX-License-Identifier: Apache-2.0
#include "resource/attributes/process_attributes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include <cerrno>
#include <charconv>
#include <span>

#include "arch/x86_64/task_controls.h"
#include "base/file.h"
#include "base/panic.h"
#include "kernel/prctl.h"

namespace stasis {
namespace {

// The calls of the query in their order.
enum Call : std::size_t { kDumpable, kSubreaper, kThpDisable, kMemoryMerge, kMdwe, kUntagMask };

constexpr std::uint32_t kThpDisabled = 1;

std::size_t prctl(Batch& batch, int option, std::uint64_t a = 0, std::uint64_t b = 0) {
  return batch.call(SYS_prctl, option, a, b, 0, 0);
}

// "-17\n" in base 10, "00000033\n" in base 16.
template <class Number>
Result<Number> parse_number(std::string_view text, int base, const std::string& file) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size())
    return Error(Errc::kSystem, fmt::format("/proc/PID/{}: '{}' is no number", file, text));
  return value;
}

Result<std::int32_t> read_oom_score_adj(const kernel::ProcDir& proc) {
  return parse_number<std::int32_t>(STASIS_TRY(proc.read("oom_score_adj")), 10, "oom_score_adj");
}

// Empty for a process without memory, and where the kernel writes no core dumps.
Result<std::uint32_t> read_coredump_filter(const kernel::ProcDir& proc) {
  const std::string text = STASIS_TRY(proc.read("coredump_filter"));
  if (text.empty()) return std::uint32_t{0};
  return parse_number<std::uint32_t>(text, 16, "coredump_filter");
}

Result<void> write_number(const kernel::ProcDir& proc, const std::string& file, const std::string& text,
                          std::string_view needs) {
  const UniqueFd fd = STASIS_TRY(proc.open_file(file, O_WRONLY));
  Result<void> written = write_full(fd.get(), std::as_bytes(std::span(text)));
  if (written) return {};
  Error error =
      std::move(written).error().note(fmt::format("setting {} of pid {} to {}", file, proc.pid().value(), text));
  if (error.sys_errno() != EACCES && error.sys_errno() != EPERM) return error;
  return std::move(error).with_code(Errc::kMissingCapability).with_help(needs);
}

}  // namespace

ProcessAttributeQuery::ProcessAttributeQuery(Batch& batch) {
  STASIS_INVARIANT(batch.on_error() == Batch::OnError::kContinue);  // what a kernel lacks fails
  subreaper_ = batch.array<std::int32_t>(1);
  untag_mask_ = batch.array<std::uint64_t>(1);
  first_ = prctl(batch, PR_GET_DUMPABLE);
  prctl(batch, PR_GET_CHILD_SUBREAPER, subreaper_.remote);
  prctl(batch, PR_GET_THP_DISABLE);
  prctl(batch, kernel::kGetMemoryMerge);
  prctl(batch, kernel::kGetMdwe);
  batch.call(arch::kArchPrctl, arch::kGetUntagMask, untag_mask_);
}

Result<OutsideAttributes> OutsideAttributes::read(const kernel::ProcDir& proc) {
  OutsideAttributes attributes;
  attributes.oom_score_adj = STASIS_TRY(read_oom_score_adj(proc));
  attributes.coredump_filter = STASIS_TRY(read_coredump_filter(proc));
  for (const kernel::CgroupMembership& group : STASIS_TRY(proc.cgroups()))
    attributes.cgroups.push_back(fmt::format("{}:{}:{}", group.hierarchy, group.controllers, group.path));
  return attributes;
}

Result<ProcessAttributes> ProcessAttributeQuery::take(const Batch& batch, const OutsideAttributes& outside) const {
  auto value_or_0 = [&](std::size_t call) {
    const std::int64_t result = batch.result(first_ + call);
    return result < 0 ? std::uint32_t{0} : static_cast<std::uint32_t>(result);
  };
  ProcessAttributes attributes;
  attributes.dumpable =
      static_cast<std::uint32_t>(STASIS_TRY(batch.check(first_ + kDumpable, "prctl(PR_GET_DUMPABLE)")));
  STASIS_TRY(batch.check(first_ + kSubreaper, "prctl(PR_GET_CHILD_SUBREAPER)"));
  attributes.child_subreaper = *subreaper_ != 0;
  attributes.thp_disable = value_or_0(kThpDisable);
  attributes.memory_merge = value_or_0(kMemoryMerge) != 0;
  attributes.mdwe = value_or_0(kMdwe);
  if (batch.result(first_ + kUntagMask) == 0) attributes.untag_mask = *untag_mask_;
  attributes.oom_score_adj = outside.oom_score_adj;
  attributes.coredump_filter = outside.coredump_filter;
  attributes.cgroups = outside.cgroups;
  return attributes;
}

void restore_memory_attributes(const ProcessAttributes& wanted, const ProcessAttributes& inherited, Batch& batch,
                               BatchChecks& checks) {
  if (wanted.thp_disable != inherited.thp_disable) {
    checks.add(prctl(batch, PR_SET_THP_DISABLE, wanted.thp_disable & kThpDisabled, wanted.thp_disable & ~kThpDisabled),
               "setting whether huge pages are disabled");
  }
  if (wanted.memory_merge != inherited.memory_merge)
    checks.add(prctl(batch, kernel::kSetMemoryMerge, wanted.memory_merge ? 1 : 0), "setting whether pages are merged");
  if (wanted.untag_mask != inherited.untag_mask && wanted.untag_mask != ~std::uint64_t{0}) {
    constexpr int kBits = 6;  // the only width there is (LAM_U57)
    checks.add(batch.call(arch::kArchPrctl, arch::kEnableTaggedAddresses, kBits), "enabling tagged addresses");
  }
}

void restore_process_attributes(const ProcessAttributes& wanted, const ProcessAttributes& inherited, Batch& batch,
                                BatchChecks& checks) {
  if (wanted.child_subreaper != inherited.child_subreaper)
    checks.add(prctl(batch, PR_SET_CHILD_SUBREAPER, wanted.child_subreaper ? 1 : 0), "becoming a child subreaper");
  if (wanted.mdwe != inherited.mdwe && wanted.mdwe != 0)
    checks.add(prctl(batch, kernel::kSetMdwe, wanted.mdwe), "setting memory-deny-write-execute");
  // Always: what credentials did to it is not known here.
  checks.add(prctl(batch, PR_SET_DUMPABLE, wanted.dumpable == 1 ? 1 : 0), "setting dumpable");
}

Result<void> apply_process_attributes(const ProcessAttributes& wanted, const kernel::ProcDir& proc) {
  if (STASIS_TRY(read_oom_score_adj(proc)) != wanted.oom_score_adj) {
    STASIS_TRY(write_number(proc, "oom_score_adj", std::to_string(wanted.oom_score_adj),
                            "lowering it needs CAP_SYS_RESOURCE, or a caller that has this value itself"));
  }
  if (STASIS_TRY(read_coredump_filter(proc)) != wanted.coredump_filter)
    STASIS_TRY(
        write_number(proc, "coredump_filter", fmt::format("{:#x}", wanted.coredump_filter), "needs the same user"));
  return {};
}

Result<void> check_process_attributes(const ProcessAttributes& wanted, const ProcessAttributes& inherited,
                                      const ImageOwner& owner) {
  if (owner.trust == ImageTrust::kCaller || owner.uid == 0 || wanted.oom_score_adj >= inherited.oom_score_adj)
    return {};
  return Error(Errc::kRefused,
               fmt::format("the image asks for oom_score_adj {}, beyond the rights of its owner", wanted.oom_score_adj))
      .with_help("restart as the owner, or give the image to root");
}

}  // namespace stasis
