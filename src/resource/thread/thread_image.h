// SPDX-License-Identifier: Apache-2.0
// A thread as a checkpoint sees it.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>

#include "kernel/kept_file.h"
#include "resource/credentials/credentials.h"
#include "resource/thread/thread_record.h"
#include "tracee/process.h"

namespace stasis {

// The run-queue clock of each CPU, asked when it is first needed and remembered: for one look at many processes.
// Threads: any number at once.
class RunQueueClocks {
 public:
  struct Origin {
    std::chrono::steady_clock::time_point zero;  // when the clock was
    std::chrono::steady_clock::time_point read;
  };
  std::optional<Origin> origin(int cpu);

 private:
  std::mutex mutex_;
  std::map<int, std::optional<Origin>> origins_;
};

// What was learnt of waiting threads before the freeze: since when each has been waiting.
class WaitTimes {
 public:
  // Looks at every thread of the running process, side by side. Threads that are not in a call with a relative time-out
  // cost one small read.
  static WaitTimes look(const kernel::ProcDir& proc, RunQueueClocks& clocks);
  // The call in which the thread waits where only restart_syscall(2) stands in its registers; -1: not known.
  long restarted_call(HostPid tid) const;
  // Time that the thread had been asleep when it was stopped, now, in a call with this time-out. 0 where that is not
  // known, or where it has not slept on since it was looked at: then it waits in another call.
  std::chrono::nanoseconds waited(const kernel::ProcDir& proc, HostPid tid, std::chrono::nanoseconds timeout) const;

 private:
  struct Sleep {
    std::chrono::steady_clock::time_point since;
    std::chrono::steady_clock::time_point looked;
    std::uint64_t count = 0;           // voluntary switches up to and with this one
    std::optional<std::uint64_t> all;  // switches of any kind
    kernel::KeptFile schedstat;
  };
  static std::optional<Sleep> look_at(const kernel::ProcDir& proc, HostPid tid, RunQueueClocks& clocks);
  static bool slept_on(const Sleep& sleep, const kernel::ProcDir& proc, HostPid tid);
  std::map<HostPid, Sleep> sleeps_;
  std::map<HostPid, long> restarted_;
};

// What is known of a thread as soon as it stands.
struct SettledThread {
  InterruptedCallRecord call;
  RseqRecord rseq;
  std::vector<std::byte> pending_signals;
};

// Right after the freeze, before anything runs in the thread: moves it out of a restartable sequence and rewinds a call
// that would otherwise end with EINTR.
Result<SettledThread> settle_thread(TracedProcess& process, TracedThread& thread, const WaitTimes& waits,
                                    std::uint64_t process_pending);
// Right before the thread goes on as `call` says: leaves in it what the next checkpoint has to know. `frozen`: time
// since settle_thread().
void note_wait(TracedThread& thread, const InterruptedCallRecord& call, std::chrono::nanoseconds frozen);

// Asks in the thread's own batch; take() after it ran.
class ThreadQuery {
 public:
  explicit ThreadQuery(Batch& batch);
  Result<ThreadRecord> take(const Batch& batch, const TracedProcess& process, const TracedThread& thread,
                            const SettledThread& settled, CredentialsCache& credentials,
                            const kernel::ProcStatus* known) const;

 private:
  std::size_t first_;
  GateValue<std::uint64_t> clear_child_tid_;
  GateValue<stack_t> altstack_;
  ThreadAttributeQuery attributes_;
  CredentialsQuery credentials_;
};

}  // namespace stasis
