// SPDX-License-Identifier: Apache-2.0
// ProcDir: everything /proc says about one process, read through one descriptor of its directory.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "kernel/proc_auxv.h"
#include "kernel/proc_cgroup.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_limits.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_mountinfo.h"
#include "kernel/proc_sched.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_timers.h"
#include "stasis/result.h"

namespace stasis::kernel {

// Namespace kinds by their names in /proc/PID/ns.
enum class Namespace { kCgroup, kIpc, kMount, kNet, kPid, kPidForChildren, kTime, kTimeForChildren, kUser, kUts };

// Owns a descriptor of /proc/PID, which keeps no process alive. A pid that is reused meanwhile is no danger: the
// directory stays bound to the first process, and every call then says kVanished. No state but the descriptor, so calls
// from several threads are fine.
//
// A process may outlive its leader: a main thread that has ended while others run stays as a zombie, without memory,
// files or namespaces. Those are then read through a thread that lives, one that was there at open() or at the last
// look_again().
//
// Errors of all calls: the process (or thread, or descriptor number) is gone: kVanished; not ours to look at:
// kNotOwner.
//
//   const ProcDir proc = STASIS_TRY(ProcDir::open(pid));
//   for (const HostPid tid : STASIS_TRY(proc.threads())) { ... proc.thread_status(tid) ... }
class ProcDir {
 public:
  // kNoSuchProcess when there is none of that pid (a thread that is no leader counts as none).
  static Result<ProcDir> open(HostPid pid);
  // Another descriptor of the same directory.
  Result<ProcDir> duplicate() const;

  HostPid pid() const { return pid_; }
  // The leader, or, when that has ended, a thread that lives: whoever asks the kernel (kcmp, process_vm_readv) for what
  // all threads share asks for this one.
  HostPid live_tid() const { return live_tid_; }
  bool leader_has_ended() const { return live_tid_ != pid_; }
  // Has the leader ended since, or the thread that stood for it?
  Result<void> look_again();
  // For *at() calls on names not covered below.
  int fd() const { return live_dir_ ? live_dir_.get() : dir_.get(); }
  // In clock ticks since boot: with the pid it names this process among all that ever had the pid.
  std::uint64_t start_time() const { return start_time_; }
  // Is it still there (a zombie counts)?
  Result<void> check_alive() const;
  // Gone, a zombie, or on its way there: every thread has been killed or is exiting.
  bool has_ended() const;

  Result<ProcStat> stat() const;
  Result<ProcStatus> status() const;
  Result<std::vector<Vma>> maps() const;
  Result<std::vector<Vma>> smaps() const;
  Result<Limits> limits() const;
  Result<std::vector<PosixTimer>> timers() const;
  Result<std::vector<AuxvEntry>> auxv() const;
  Result<std::vector<Mount>> mounts() const;
  Result<std::vector<CgroupMembership>> cgroups() const;
  // Raw, with their NUL bytes; as the process may have overwritten them.
  Result<std::string> cmdline() const;
  Result<std::string> environ() const;

  // The oldest first (numbers begin anew one day); the leader (tid == pid) may have exited and is still listed as a
  // zombie.
  Result<std::vector<HostPid>> threads() const;
  Result<ProcStat> thread_stat(HostPid tid) const;
  Result<ProcStatus> thread_status(HostPid tid) const;
  Result<SchedInfo> thread_sched(HostPid tid) const;
  // The name without its newline, at most 15 bytes.
  Result<std::string> thread_comm(HostPid tid) const;
  // Children of all threads, ascending.
  Result<std::vector<HostPid>> children() const;

  // Open descriptor numbers, ascending.
  Result<std::vector<int>> fds() const;
  Result<FdInfo> fdinfo(int fd) const;
  // What the link says ("/path (deleted)", "pipe:[123]", "anon_inode:[eventfd]").
  Result<std::string> fd_link(int fd) const;
  // fstat of the open file itself, without opening it.
  Result<struct ::stat> fd_stat(int fd) const;

  Result<std::string> exe_link() const;
  Result<std::string> cwd_link() const;
  Result<std::string> root_link() const;
  // Device and inode of exe, cwd or root ("exe", "cwd", "root").
  Result<struct ::stat> link_stat(const std::string& name) const;
  // Inode number of the namespace: equal for two processes in the same one.
  Result<std::uint64_t> ns(Namespace kind) const;

  // Any other file of the directory, whole; errors mapped as above.
  Result<std::string> read(const std::string& name) const;
  // Opens a file of the directory ("pagemap", "mem", "exe", "map_files/...").
  Result<UniqueFd> open_file(const std::string& name, int flags) const;

 private:
  ProcDir(HostPid pid, UniqueFd dir) : pid_(pid), live_tid_(pid), dir_(std::move(dir)) {}
  Error explain(Error cause, const std::string& name) const;
  Result<std::string> link(const std::string& name) const;
  Result<std::vector<std::int32_t>> numbers_in(const std::string& name) const;
  // The directory in which a name is to be looked up.
  int dir_of(const std::string& name) const;

  HostPid pid_;
  HostPid live_tid_;
  UniqueFd dir_;
  UniqueFd live_dir_;  // where the leader has ended
  std::uint64_t start_time_ = 0;
};

// The name in /proc/PID/ns.
std::string_view namespace_name(Namespace kind);

}  // namespace stasis::kernel
