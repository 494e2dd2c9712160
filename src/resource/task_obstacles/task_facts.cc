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
#include "kernel/idle_child.h"
#include "kernel/kcmp.h"
#include "resource/task_obstacles/task_obstacles.h"

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
  for (const HostPid tid : STASIS_TRY(proc.threads())) {
    if (tid == proc.pid()) {
      facts.threads.push_back(thread_facts(tid, leader));
      if (leader.zombie()) facts.threads.back().seccomp = 0;  // it makes no calls any more
      if (!leader.ns_pid.empty()) facts.tids.emplace_back(leader.ns_pid.back());
      continue;
    }
    const auto status = proc.thread_status(tid);
    if (!status || status->zombie()) continue;
    facts.threads.push_back(thread_facts(tid, *status));
    if (!status->ns_pid.empty()) facts.tids.emplace_back(status->ns_pid.back());
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

struct SemaphoreSet {
  int id = -1;
  int size = 0;
  std::int64_t operated_at = 0;  // seconds since the Epoch
};

// In seconds since the Epoch, by the clock as it goes now.
Result<std::int64_t> started_at(const ProcDir& proc) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const auto ticks = static_cast<std::int64_t>(STASIS_TRY(proc.stat()).starttime);
  const kernel::Clocks now = kernel::read_clocks();
  return (now.realtime_ns - now.boottime_ns) / kSecond + ticks / ::sysconf(_SC_CLK_TCK);
}

// The sets of semaphores in our namespace that anybody ever operated on. The first line is a heading; of the others the
// second word is the number of the set, the fourth its size, the ninth the time of the last semop(2), 0 for none (man 5
// proc).
std::vector<SemaphoreSet> used_semaphores() {
  std::vector<SemaphoreSet> sets;
  const auto text = read_file(AT_FDCWD, "/proc/sysvipc/sem");
  if (!text) return sets;
  std::istringstream lines(*text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::array<std::int64_t, 9> words{};
    std::istringstream in(line);
    for (std::int64_t& word : words) in >> word;
    if (words[8] == 0) continue;
    sets.push_back({.id = static_cast<int>(words[1]), .size = static_cast<int>(words[3]), .operated_at = words[8]});
  }
  return sets;
}

// Is it the last that operated on a semaphore? A set may remember a process of that number which has ended long ago.
bool operated_on(HostPid pid, std::int64_t start, const std::vector<SemaphoreSet>& sets) {
  constexpr std::int64_t kRounding = 2;
  for (const SemaphoreSet& set : sets) {
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
Result<bool> may_undo_semaphores(const ProcDir& proc, std::size_t threads) {
  const std::vector<SemaphoreSet> sets = used_semaphores();
  if (sets.empty()) return false;
  if (threads != 1) return operated_on(proc.pid(), STASIS_TRY(started_at(proc)), sets);
  const auto without_list = STASIS_TRY(kernel::IdleChild::make());
  const auto order = kernel::kcmp(kernel::KcmpType::kSysvSem, proc.live_tid(), without_list.pid());
  return order && *order != std::partial_ordering::equivalent;
}

Result<std::string> lost_executable(const ProcDir& proc) {
  std::string path = STASIS_TRY(proc.exe_link());
  const struct ::stat runs = STASIS_TRY(proc.link_stat("exe"));
  struct ::stat found{};
  const bool leads = ::stat(path.c_str(), &found) == 0 && found.st_dev == runs.st_dev && found.st_ino == runs.st_ino;
  return leads ? std::string() : path;
}

// What the program itself can change from one moment to the next, by calls that nobody sees from outside.
Result<void> add_surroundings(const ProcDir& proc, const ProcStatus& status, const Observer& observer,
                              TaskFacts& facts) {
  facts.program = program_kind(proc);
  facts.namespaces = namespace_ids(proc);
  if (facts.namespaces != observer.namespaces) add_namespace_init(proc, status, facts);
  facts.lost_executable = STASIS_TRY(lost_executable(proc));
  facts.semaphore_undo = STASIS_TRY(may_undo_semaphores(proc, facts.threads.size()));
  return {};
}

}  // namespace

Result<TaskFacts> look_at_task(const ProcDir& proc, const Observer& observer) {
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
  STASIS_TRY(add_surroundings(proc, status, observer, facts));
  facts.timers = STASIS_TRY(proc.timers());
  return facts;
}

Result<TaskFacts> look_at_frozen_task(const ProcDir& proc, std::size_t threads, const Observer& observer) {
  TaskFacts facts{.pid = proc.pid(), .accessible = true, .threads = std::vector<ThreadFacts>(threads)};
  for (ThreadFacts& thread : facts.threads) thread = {.tid = proc.pid(), .state = 't'};
  const ProcStatus status = STASIS_TRY(proc.status());
  STASIS_TRY(add_surroundings(proc, status, observer, facts));
  return facts;
}

}  // namespace stasis
