// SPDX-License-Identifier: Apache-2.0
#include "resource/signal/signal_actions.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <cstring>

namespace stasis {
namespace {
constexpr std::uint64_t kSigsetSize = 8;
constexpr std::size_t kSiginfoSize = sizeof(siginfo_t);
static_assert(kSiginfoSize == 128 && sizeof(SignalAction) == 32);
}  // namespace

SignalActionQuery::SignalActionQuery(Batch& batch) : actions_(batch.array<SignalAction>(kSignalCount)) {
  first_call_ = batch.size();
  for (int signal = 1; signal <= kSignalCount; ++signal) {
    const auto index = static_cast<std::uint64_t>(signal - 1);
    batch.call(SYS_rt_sigaction, signal, 0, actions_.remote + index * sizeof(SignalAction), kSigsetSize);
  }
}

Result<SighandRecord> SignalActionQuery::take(const Batch& batch, const TracedProcess& process) const {
  SighandRecord record;
  record.actions.resize(kSignalCount);
  for (std::size_t i = 0; i < record.actions.size(); ++i) {
    STASIS_TRY(batch.check(first_call_ + i, fmt::format("rt_sigaction of signal {}", i + 1)));
    record.actions[i] = actions_.local[i];
  }
  if (const int borrowed = process.borrowed_signal()) {
    const auto own = process.borrowed_action();
    record.actions[static_cast<std::size_t>(borrowed - 1)] = {own[0], own[1], own[2], own[3]};
  }
  return record;
}

Result<void> restore_signal_actions(const SighandRecord& record, Batch& batch, BatchChecks& checks) {
  if (record.actions.size() != kSignalCount) {
    return Error(Errc::kBadImage, fmt::format("{} signal actions instead of {}", record.actions.size(), kSignalCount));
  }
  for (int signal = 1; signal <= kSignalCount; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    const auto action = batch.put(record.actions[static_cast<std::size_t>(signal - 1)]);
    checks.add(batch.call(SYS_rt_sigaction, signal, action.remote, 0, kSigsetSize),
               fmt::format("set action of signal {}", signal));
  }
  return {};
}

std::vector<std::byte> encode_pending(std::span<const siginfo_t> pending) {
  const auto bytes = std::as_bytes(pending);
  return {bytes.begin(), bytes.end()};
}

Result<std::vector<siginfo_t>> decode_pending(std::span<const std::byte> bytes) {
  if (bytes.size() % kSiginfoSize != 0) return Error(Errc::kBadImage, "pending signals are cut");
  std::vector<siginfo_t> pending(bytes.size() / kSiginfoSize);
  if (!bytes.empty()) std::memcpy(pending.data(), bytes.data(), bytes.size());
  for (const siginfo_t& info : pending) {
    if (info.si_signo < 1 || info.si_signo > kSignalCount) {
      return Error(Errc::kBadImage, fmt::format("pending signal {}", info.si_signo));
    }
  }
  return pending;
}

void restore_pending(std::span<const siginfo_t> pending, std::int32_t tgid, std::int32_t tid, Batch& batch,
                     BatchChecks& checks) {
  for (const siginfo_t& info : pending) {
    const auto copy = batch.put(info);
    const std::size_t call = tid ? batch.call(SYS_rt_tgsigqueueinfo, tgid, tid, info.si_signo, copy.remote)
                                 : batch.call(SYS_rt_sigqueueinfo, tgid, info.si_signo, copy.remote);
    checks.add(call, fmt::format("queue pending signal {}", info.si_signo));
  }
}

}  // namespace stasis
