// SPDX-License-Identifier: Apache-2.0
// look_at_task(): gathers, judges nothing.
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "base/file.h"
#include "kernel/clocks.h"
#include "kernel/kcmp.h"
#include "resource/task_obstacles/task_obstacles.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

using kernel::ProcDir;
using kernel::ProcStatus;

constexpr std::uint32_t kExiting = 0x4;  // PF_EXITING

// Opening `mem` is decided by the very check that ptrace attaching is, Yama included, and touches nothing.
Result<bool> accessible(const ProcDir& proc) {
  const auto memory = proc.open_file("mem", O_RDONLY);
  if (memory) return true;
  if (memory.error().code() == Errc::kNotOwner) return false;
  return memory.error();
}

// /proc/PID belongs to the user of a dumpable process and to root otherwise.
bool dumpable(const ProcDir& proc, std::uint32_t effective_uid) {
  struct ::stat directory{};
  return ::fstat(proc.fd(), &directory) != 0 || effective_uid == 0 || directory.st_uid != 0;
}

ProgramKind program_kind(const ProcDir& proc) {
  const auto exe = proc.open_file("exe", O_RDONLY);
  if (!exe) return ProgramKind::kUnknown;
  Elf64_Ehdr header{};  // the fields looked at lie at the same places in a 32-bit header
  const auto size = pread_full(exe->get(), std::as_writable_bytes(std::span(&header, 1)), 0);
  if (!size || *size < sizeof(Elf32_Ehdr) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return ProgramKind::kUnknown;
  const bool native = header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_machine == EM_X86_64;
  return native ? ProgramKind::kNative : ProgramKind::kForeign;
}

ThreadFacts thread_facts(HostPid tid, const ProcStatus& status) {
  return {.tid = tid,
          .state = status.state,
          .tracer = status.tracer_pid,
          .seccomp = status.seccomp,
          .shadow_stack = status.x86_thread_features && status.x86_thread_features->find("shstk") != std::string::npos};
}

// Threads that end meanwhile are left out.
Result<void> add_threads(const ProcDir& proc, const ProcStatus& leader, TaskFacts& facts) {
  const std::vector<HostPid> tids = STASIS_TRY(proc.threads());
  std::vector<std::optional<ProcStatus>> found(tids.size());
  const auto look = [&](std::size_t i, std::size_t) -> Result<void> {
    if (tids[i] == proc.pid()) return {};
    auto status = proc.thread_status(tids[i]);
    if (status && !status->zombie()) found[i] = *std::move(status);
    return {};
  };
  STASIS_TRY(side_by_side({.count = tids.size(), .worth_a_thread = 16}, look));
  for (std::size_t i = 0; i < tids.size(); ++i) {
    const bool is_leader = tids[i] == proc.pid();
    if (!is_leader && !found[i]) continue;
    const ProcStatus& status = is_leader ? leader : *found[i];
    facts.threads.push_back(thread_facts(tids[i], status));
    if (status.zombie()) facts.threads.back().seccomp = 0;  // it makes no calls any more
    if (!status.ns_pid.empty()) facts.tids.emplace_back(status.ns_pid.back());
  }
  return {};
}

// Process 1 of the process's pid namespace: orphans are given to it, so it is always an ancestor.
void add_namespace_init(const ProcDir& proc, const ProcStatus& own, TaskFacts& facts) {
  const std::size_t level = own.ns_pid.size();
  std::int32_t parent = own.ppid;
  bool is_init = level > 1 && own.ns_pid.back() == 1;
  std::optional<ProcDir> holder;
  for (int steps = 0; !is_init && parent > 0 && steps < 4096; ++steps) {
    auto opened = ProcDir::open(HostPid(parent));
    if (!opened) return;
    holder.emplace(std::move(*opened));
    const auto status = holder->status();
    if (!status || status->ns_pid.size() != level) return;
    is_init = status->ns_pid.back() == 1;
    parent = status->ppid;
  }
  if (!is_init) return;
  const ProcDir& init = holder ? *holder : proc;
  facts.init_name = init.thread_comm(init.pid()).value_or("");
  facts.init_namespaces = namespace_ids(init);
}

// In seconds since the Epoch, by the clock as it goes now.
Result<std::int64_t> started_at(const ProcDir& proc) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const auto ticks = static_cast<std::int64_t>(STASIS_TRY(proc.stat()).starttime);
  const kernel::Clocks now = kernel::read_clocks();
  return (now.realtime_ns - now.boottime_ns) / kSecond + ticks / ::sysconf(_SC_CLK_TCK);
}

// Is it the last that operated on a semaphore? A set may remember a process of that number which has ended long ago.
bool operated_on(HostPid pid, std::int64_t start, std::span<const UsedSemaphores::Set> sets) {
  constexpr std::int64_t kRounding = 2;
  for (const UsedSemaphores::Set& set : sets) {
    if (set.operated_at < start - kRounding) continue;
    for (int i = 0; i < set.size; ++i) {
      const int last = ::semctl(set.id, i, GETPID);
      if (last < 0) break;  // none of ours, or gone
      if (last == pid.value()) return true;
    }
  }
  return false;
}

// The kernel tells whether there is a list of undo values, but not whether anything stands in it; and every process
// that ever made a thread has a list (CLONE_SYSVSEM). One of several threads is suspected of what it did last.
Result<bool> may_undo_semaphores(const ProcDir& proc, std::size_t threads, const UsedSemaphores& semaphores) {
  if (semaphores.sets().empty()) return false;
  const bool had_threads = threads != 1 || proc.leader_has_ended();
  if (had_threads) return operated_on(proc.pid(), STASIS_TRY(started_at(proc)), semaphores.sets());
  const auto order = kernel::kcmp(kernel::KcmpType::kSysvSem, proc.live_tid(), semaphores.without_list());
  return order && *order != std::partial_ordering::equivalent;
}

Result<void> look_at_executable(const ProcDir& proc, const TaskFacts* before, TaskFacts& facts) {
  const std::string path = STASIS_TRY(proc.exe_link());
  const struct ::stat runs = STASIS_TRY(proc.link_stat("exe"));
  facts.executable = {.device = runs.st_dev, .inode = runs.st_ino};
  facts.program = before && before->executable == facts.executable ? before->program : program_kind(proc);
  struct ::stat found{};
  const bool leads = ::stat(path.c_str(), &found) == 0 && found.st_dev == runs.st_dev && found.st_ino == runs.st_ino;
  if (!leads) facts.lost_executable = path;
  return {};
}

// What the program itself can change from one moment to the next, by calls that nobody sees from outside. `before`: the
// facts when it was last looked at, or null.
Result<void> add_surroundings(const ProcDir& proc, const ProcStatus& status, const Observer& observer,
                              const UsedSemaphores& semaphores, const TaskFacts* before, TaskFacts& facts) {
  facts.namespaces = namespace_ids(proc);
  if (facts.namespaces != observer.namespaces) add_namespace_init(proc, status, facts);
  STASIS_TRY(look_at_executable(proc, before, facts));
  facts.semaphore_undo = STASIS_TRY(may_undo_semaphores(proc, facts.threads.size(), semaphores));
  return {};
}

}  // namespace

// The first line is a heading; of the others the second word is the number of the set, the fourth its size, the ninth
// the time of the last semop(2), 0 for none (man 5 proc).
Result<UsedSemaphores> UsedSemaphores::look() {
  UsedSemaphores used;
  const auto text = read_file(AT_FDCWD, "/proc/sysvipc/sem");
  if (!text) return used;
  std::istringstream lines(*text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::array<std::int64_t, 9> words{};
    std::istringstream in(line);
    for (std::int64_t& word : words) in >> word;
    if (words[8] == 0) continue;
    used.sets_.push_back(
        {.id = static_cast<int>(words[1]), .size = static_cast<int>(words[3]), .operated_at = words[8]});
  }
  if (!used.sets_.empty()) used.without_list_.emplace(STASIS_TRY(kernel::IdleChild::make()));
  return used;
}

Result<TaskFacts> look_at_task(const ProcDir& proc, const Observer& observer, const UsedSemaphores& semaphores) {
  const kernel::ProcStat stat = STASIS_TRY(proc.stat());
  const ProcStatus status = STASIS_TRY(proc.status());
  // A leader that has ended while other threads live is on nobody's way out.
  const bool leader_ends = (stat.flags & kExiting) != 0 || status.zombie();
  TaskFacts facts{.pid = proc.pid(),
                  .kernel_thread = stat.kernel_thread(),
                  .ending = leader_ends && !proc.leader_has_ended(),
                  .dumpable = dumpable(proc, status.uid.effective),
                  .core_dumping = status.core_dumping,
                  .uid = status.uid.real,
                  .permitted = status.cap_permitted};
  if (facts.kernel_thread) return facts;
  STASIS_TRY(add_threads(proc, status, facts));
  if (facts.ending) return facts;
  facts.accessible = STASIS_TRY(accessible(proc));
  if (!facts.accessible) return facts;
  STASIS_TRY(add_surroundings(proc, status, observer, semaphores, nullptr, facts));
  facts.timers = STASIS_TRY(proc.timers());
  return facts;
}

Result<TaskFacts> look_at_frozen_task(const FrozenTask& task, const Observer& observer,
                                      const UsedSemaphores& semaphores) {
  const HostPid pid = task.proc.pid();
  TaskFacts facts{.pid = pid, .accessible = true, .threads = std::vector<ThreadFacts>(task.threads)};
  for (ThreadFacts& thread : facts.threads) thread = {.tid = pid, .state = 't'};
  STASIS_TRY(add_surroundings(task.proc, task.status, observer, semaphores, &task.before, facts));
  return facts;
}

}  // namespace stasis
