// SPDX-License-Identifier: Apache-2.0
#include "kernel/call_as.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <span>

#include "kernel/clone3.h"

namespace stasis::kernel {
namespace {

constexpr int kNoRights = 255;  // no errno

struct Job {
  const CallerIdentity& identity;
  int (*call)(void*) noexcept;
  void* context;
};

// Raw calls: libc's would change the ids of what it takes for our other threads.
bool take_ids(const CallerIdentity& identity) noexcept {
  const bool gid =
      ::getegid() == identity.gid || ::syscall(SYS_setresgid, identity.gid, identity.gid, identity.gid) == 0;
  return gid &&
         (::geteuid() == identity.uid || ::syscall(SYS_setresuid, identity.uid, identity.uid, identity.uid) == 0);
}

void run(void* context) noexcept {
  const Job& job = *static_cast<Job*>(context);
  ::_exit(take_ids(job.identity) ? job.call(job.context) : kNoRights);
}

}  // namespace

Result<int> call_as(const CallerIdentity& identity, int (*call)(void* context) noexcept, void* context) {
  Job job{identity, call, context};
  const std::span<const std::int32_t> pids(&identity.pid, identity.pid > 0 ? 1 : 0);
  const HostPid pid = STASIS_TRY(clone3_process(CLONE_FILES, SIGCHLD, pids, run, &job));
  int status = 0;
  while (::waitpid(pid.value(), &status, __WALL) < 0) {
    if (errno != EINTR) return Error::from_errno(errno, "wait for a helper process");
  }
  if (!WIFEXITED(status)) return Error(Errc::kInternal, "a helper process was killed");
  if (WEXITSTATUS(status) == kNoRights) return Error(Errc::kNotPermitted, "take another user's id");
  return WEXITSTATUS(status);
}

}  // namespace stasis::kernel
