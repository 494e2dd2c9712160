// SPDX-License-Identifier: Apache-2.0
#include "engine/job_states.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>

#include "resource/signal/signal_actions.h"
#include "tracee/call_runner.h"

namespace stasis {
namespace {

// As rt_sigaction(2) of the kernel lays it out: handler, flags, restorer, mask.
using KernelAction = std::array<std::uint64_t, 4>;

UnaskedChange change_of(const siginfo_t& info) {
  if (info.si_pid == 0) return UnaskedChange::kNone;
  return info.si_code == CLD_CONTINUED ? UnaskedChange::kContinued : UnaskedChange::kStopped;
}

// While it lasts, children that stop or go on send no SIGCHLD.
class Hush {
 public:
  Hush(NewProcess& parent, const Patience& patience) : parent_(parent), patience_(patience) {}

  Result<void> begin() {
    CallRunner calls(parent_, patience_);
    const auto old = calls.batch().put(KernelAction{});
    // Not by default: that would throw away a SIGCHLD that is pending. It is blocked, nothing ever jumps there.
    constexpr std::uint64_t kNowhere = 4096;
    const KernelAction quiet = {kNowhere, SA_NOCLDSTOP, 0, 0};
    STASIS_TRY(calls.call("rt_sigaction", SYS_rt_sigaction, SIGCHLD, calls.batch().put(quiet), old, kSetSize));
    STASIS_TRY(calls.flush());
    old_ = *old;
    return {};
  }
  Result<void> end() {
    CallRunner calls(parent_, patience_);
    STASIS_TRY(calls.call("rt_sigaction", SYS_rt_sigaction, SIGCHLD, calls.batch().put(old_), 0, kSetSize));
    return calls.flush();
  }

 private:
  static constexpr std::uint64_t kSetSize = 8;
  NewProcess& parent_;
  const Patience& patience_;
  KernelAction old_{};
};

// SIGCONT of ours is nothing that the program was sent; one that the image holds pending stays.
Result<void> go_on(NewProcess& child, const ProcessRecord& record, const Patience& patience) {
  const auto pending = STASIS_TRY(decode_pending(record.pending_signals));
  STASIS_TRY(child.send_continue());
  CallRunner calls(child, patience);
  if (std::ranges::find(pending, SIGCONT, &siginfo_t::si_signo) == pending.end()) {
    const std::uint64_t set = std::uint64_t{1} << (SIGCONT - 1);
    calls.batch().call(SYS_rt_sigtimedwait, calls.batch().put(set), 0, calls.batch().put(timespec{}), sizeof set);
  } else {
    calls.batch().call(SYS_getpid);  // it must run, so that the change is made known
  }
  return calls.flush();
}

}  // namespace

Result<void> ask_job_states(ProcessImage& parent, std::span<ProcessImage* const> children, const Patience& patience) {
  constexpr std::size_t kAtOnce = 64;
  while (!children.empty()) {
    const auto now = children.first(std::min(kAtOnce, children.size()));
    children = children.subspan(now.size());
    Batch batch(parent.traced().carrier_slot());
    std::vector<std::pair<std::size_t, GateValue<siginfo_t>>> answers;
    for (ProcessImage* const child : now) {
      const auto info = batch.array<siginfo_t>(1);
      const std::size_t call = batch.call(SYS_waitid, P_PID, child->record().pid.value(), info,
                                          WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT | __WALL, 0);
      answers.emplace_back(call, info);
    }
    STASIS_TRY(parent.traced().run(batch, patience));
    for (std::size_t i = 0; i < now.size(); ++i) {
      STASIS_TRY(batch.check(answers[i].first, "waitid"));
      ProcessRecord& record = now[i]->record();
      const UnaskedChange change = change_of(*answers[i].second);
      const auto possible = record.stopped ? UnaskedChange::kStopped : UnaskedChange::kContinued;
      record.unasked = change == possible ? change : UnaskedChange::kNone;
    }
  }
  return {};
}

Result<void> restore_job_state(NewProcess& parent, NewProcess& child, const ProcessRecord& record,
                               const Patience& patience) {
  if (!record.stopped && record.unasked == UnaskedChange::kNone) return {};
  Hush hush(parent, patience);
  STASIS_TRY(hush.begin());
  STASIS_TRY(child.stop(patience));
  if (record.unasked == UnaskedChange::kNone) {
    CallRunner calls(parent, patience);
    STASIS_TRY(calls.call("wait4", SYS_wait4, child.pid().value(), 0, WUNTRACED | WNOHANG | __WALL, 0));
    STASIS_TRY(calls.flush());
  } else if (record.unasked == UnaskedChange::kContinued) {
    STASIS_TRY(go_on(child, record, patience));
  }
  return hush.end();
}

}  // namespace stasis
