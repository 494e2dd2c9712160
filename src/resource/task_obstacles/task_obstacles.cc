// SPDX-License-Identifier: Apache-2.0
#include "resource/task_obstacles/task_obstacles.h"

#include <linux/capability.h>

#include <algorithm>
#include <iterator>

#include "resource/credentials/credentials.h"
#include "resource/timer/process_timers.h"

namespace stasis {
namespace {

// Judges one process; each function adds what it finds.
class Judge {
 public:
  Judge(const TaskFacts& facts, const Observer& observer) : facts_(facts), observer_(observer) {}

  Obstacles judge();

 private:
  void add(Errc code, std::string object, std::string why, std::string help = {}) {
    found_.push_back(
        {.code = code, .pid = facts_.pid, .object = std::move(object), .why = std::move(why), .help = std::move(help)});
  }
  bool is_leader(const ThreadFacts& thread) const { return thread.tid == facts_.pid; }
  std::string name_of(const ThreadFacts& thread) const {
    return is_leader(thread) ? "process" : fmt::format("thread {}", thread.tid.value());
  }
  // Is there no use in looking further?
  bool beyond_saving();
  void judge_access();
  void judge_kinship();
  void judge_thread(const ThreadFacts& thread);
  void judge_seccomp();
  void judge_namespaces();
  void judge_rest();

  const TaskFacts& facts_;
  const Observer& observer_;
  Obstacles found_;
};

bool Judge::beyond_saving() {
  if (facts_.kernel_thread) {
    add(Errc::kUnsupportedTask, "kernel thread", "it is a part of the kernel, not a program");
    return true;
  }
  // A main thread may have ended while others run.
  const auto live = [](const ThreadFacts& thread) { return thread.state != 'Z' && thread.state != 'X'; };
  const bool ended = std::ranges::none_of(facts_.threads, live);
  if (!ended && !facts_.ending) return false;
  add(Errc::kUnsupportedTask, "process", ended ? "it has ended (a zombie)" : "it is ending");
  return true;
}

void Judge::judge_access() {
  if (facts_.accessible) return;
  const std::string object = "process";
  const std::uint64_t beyond = facts_.permitted & ~observer_.capabilities;
  if (facts_.uid != observer_.uid) {
    add(Errc::kNotOwner, object, fmt::format("it belongs to user {}", facts_.uid), "become that user, or root");
  } else if (!facts_.dumpable) {
    add(Errc::kNotOwner, object, "it has made itself undumpable, or runs a program that its user may not read",
        "root can save it");
  } else if (beyond != 0) {
    add(Errc::kNotOwner, object, "it holds " + capability_names(beyond), "run stasis with as many capabilities");
  } else if (observer_.yama_scope != 0) {
    add(Errc::kNotPermitted, object,
        fmt::format("sysctl kernel.yama.ptrace_scope is {}: only {} may trace it", observer_.yama_scope,
                    observer_.yama_scope == 1   ? "its ancestors"
                    : observer_.yama_scope == 2 ? "root"
                                                : "nobody"),
        observer_.yama_scope == 3 ? "the setting can be changed by a reboot alone"
                                  : "set it to 0, start the program by `stasis run`, or be root");
  } else {
    add(Errc::kNotPermitted, object, "the kernel does not permit to trace it",
        "it may live in another user namespace, or a security module forbids it; root can tell");
  }
}

void Judge::judge_kinship() {
  if (facts_.pid == observer_.pid || std::ranges::find(observer_.ancestors, facts_.pid) != observer_.ancestors.end()) {
    add(Errc::kOwnTree, "process", "this stasis runs inside it", "start stasis from outside, such as another terminal");
  }
}

void Judge::judge_thread(const ThreadFacts& thread) {
  if (thread.tracer != 0) {
    add(Errc::kAlreadyTraced, name_of(thread), fmt::format("it is traced by process {}", thread.tracer),
        "end the debugger or tracer first");
  }
  if (thread.shadow_stack)
    add(Errc::kUnsupportedTask, name_of(thread), "it has a shadow stack; that can't be saved yet");
}

// One line for all threads: a filter is nearly always everybody's.
void Judge::judge_seccomp() {
  const auto confined = std::ranges::find_if(facts_.threads, [](const ThreadFacts& t) { return t.seccomp != 0; });
  if (confined == facts_.threads.end()) return;
  std::string why = confined->seccomp == 1 ? "it is in seccomp strict mode" : "it is under seccomp filters";
  if (observer_.may_suspend_seccomp) return;
  add(Errc::kSeccomp, name_of(*confined), why + ", which only CAP_SYS_ADMIN (outside of containers) may suspend",
      "run stasis as root; services: SystemCallFilter= off");
}

void Judge::judge_namespaces() {
  const bool ours = facts_.init_name == kInitName;
  std::string foreign;
  for (std::size_t i = 0; i < kNamespaceKinds.size(); ++i) {
    const std::uint64_t id = facts_.namespaces[i];
    if (id == observer_.namespaces[i]) continue;  // 0 beside ours: for its children, but they are still to come
    if (ours && id == facts_.init_namespaces[i]) continue;
    if (!foreign.empty()) foreign += ", ";
    foreign += kernel::namespace_name(kNamespaceKinds[i]);
  }
  if (!foreign.empty()) {
    add(Errc::kUnsupportedTask, "namespaces", fmt::format("it lives in namespaces of its own ({})", foreign),
        fmt::format("run stasis inside of them (nsenter -a -t {})", facts_.pid.value()));
  }
}

void Judge::judge_rest() {
  if (facts_.core_dumping) add(Errc::kUnsupportedTask, "process", "it is writing a core dump");
  if (facts_.program == ProgramKind::kForeign)
    add(Errc::kUnsupportedTask, "program", "it is not a 64-bit x86 program", "only those can be saved");
  if (!facts_.lost_executable.empty()) {
    add(Errc::kUnsupportedObject, "executable " + facts_.lost_executable, "it has been removed or replaced",
        "restart the program from the new file first, or put the old one back");
  }
  if (facts_.semaphore_undo) {
    add(Errc::kUnsupportedObject, "semaphore undo list",
        "it seems to use System V semaphores with SEM_UNDO, whose values the kernel does not tell");
  }
  Obstacles timers = find_timer_obstacles(facts_.pid, facts_.timers, facts_.tids);
  std::ranges::move(timers, std::back_inserter(found_));
}

Obstacles Judge::judge() {
  if (beyond_saving()) return std::move(found_);
  judge_kinship();
  judge_access();
  for (const ThreadFacts& thread : facts_.threads) judge_thread(thread);
  judge_seccomp();
  if (!facts_.accessible) return std::move(found_);
  judge_namespaces();
  judge_rest();
  return std::move(found_);
}

}  // namespace

Obstacles find_task_obstacles(const TaskFacts& facts, const Observer& observer) {
  return Judge(facts, observer).judge();
}

Result<Obstacles> find_task_obstacles(const kernel::ProcDir& proc, const Observer& observer) {
  const UsedSemaphores semaphores = STASIS_TRY(UsedSemaphores::look());
  return find_task_obstacles(STASIS_TRY(look_at_task(proc, observer, semaphores)), observer);
}

}  // namespace stasis
