// SPDX-License-Identifier: Apache-2.0
// Resource limits, scheduling, affinity, I/O priority, oom_score_adj, timer slack, personality and the bits of prctl.
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <fstream>
#include <map>
#include <sstream>

#include "scenario.h"

namespace {

std::string file_text(const std::string& name) {
  std::ifstream file(name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string cpu_list(pid_t tid) {
  cpu_set_t set;
  if (sched_getaffinity(tid, sizeof set, &set) != 0) return "?";
  std::string list;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) list += std::to_string(cpu) + " ";
  return list;
}

// What belongs to one thread, as text by name.
std::map<std::string, std::string> thread_view() {
  const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  std::map<std::string, std::string> view;
  view["policy"] = std::to_string(sched_getscheduler(0));
  view["nice"] = std::to_string(getpriority(PRIO_PROCESS, static_cast<id_t>(tid)));
  view["affinity"] = cpu_list(tid);
  view["ioprio"] = std::to_string(syscall(SYS_ioprio_get, 1, 0));
  view["timerslack"] = std::to_string(prctl(PR_GET_TIMERSLACK));
  view["keepcaps"] = std::to_string(prctl(PR_GET_KEEPCAPS));
  view["no_new_privs"] = std::to_string(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  view["securebits"] = std::to_string(prctl(PR_GET_SECUREBITS));
  view["mce_kill"] = std::to_string(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
  int value = -1;
  prctl(PR_GET_TSC, &value);
  view["tsc"] = std::to_string(value);
  return view;
}

std::map<std::string, std::string> process_view() {
  std::map<std::string, std::string> view;
  view["limits"] = file_text("/proc/self/limits");
  view["oom_score_adj"] = file_text("/proc/self/oom_score_adj");
  view["coredump_filter"] = file_text("/proc/self/coredump_filter");
  view["personality"] = file_text("/proc/self/personality");
  view["thp_disable"] = std::to_string(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
  view["dumpable"] = std::to_string(prctl(PR_GET_DUMPABLE));
  int subreaper = -1;
  prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
  view["subreaper"] = std::to_string(subreaper);
  char name[32] = "";
  prctl(PR_GET_NAME, name);
  view["name"] = name;
  return view;
}

void compare(const char* whose, const std::map<std::string, std::string>& before,
             const std::map<std::string, std::string>& after) {
  for (const auto& [name, value] : before)
    CHECK(after.at(name) == value, "%s: %s is %s, not %s", whose, name.c_str(), after.at(name).c_str(), value.c_str());
}

void lower_limit(__rlimit_resource resource, rlim_t soft, rlim_t hard) {
  rlimit limit{};
  getrlimit(resource, &limit);
  limit.rlim_max = std::min(limit.rlim_max, hard);
  limit.rlim_cur = std::min(soft, limit.rlim_max);
  SETUP(setrlimit(resource, &limit));
}

std::atomic<int> set_up = 0;
std::atomic<bool> go = false;

void set_up_thread(int number) {
  const auto tid = static_cast<id_t>(syscall(SYS_gettid));
  sched_param parameter{};
  switch (number) {
    case 0:
      sched_setscheduler(0, SCHED_BATCH, &parameter);
      setpriority(PRIO_PROCESS, tid, 7);
      break;
    case 1:
      sched_setscheduler(0, SCHED_IDLE, &parameter);
      syscall(SYS_ioprio_set, 1, 0, 3 << 13);  // idle class
      break;
    default:
      prctl(PR_SET_TIMERSLACK, 123456);
      prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      prctl(PR_SET_KEEPCAPS, 1);
      setpriority(PRIO_PROCESS, tid, 12);
  }
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof allowed, &allowed);
  int wanted = number;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    break;
  }
}

void* thread_main(void* argument) {
  const int number = static_cast<int>(reinterpret_cast<std::intptr_t>(argument));
  set_up_thread(number);
  const auto before = thread_view();
  ++set_up;
  while (!go) scenario::pause_ms(5);
  compare(("thread " + std::to_string(number)).c_str(), before, thread_view());
  return nullptr;
}

}  // namespace

int main() {
  lower_limit(RLIMIT_CORE, 0, 1 << 20);
  lower_limit(RLIMIT_NOFILE, 200, 800);
  lower_limit(RLIMIT_STACK, 6 << 20, RLIM_INFINITY);
  lower_limit(RLIMIT_MSGQUEUE, 50000, 100000);
  lower_limit(RLIMIT_CPU, 5000, RLIM_INFINITY);
  setpriority(PRIO_PROCESS, 0, 3);
  syscall(SYS_ioprio_set, 1, 0, (2 << 13) | 6);
  scenario::write_file("/proc/self/oom_score_adj", "333");
  scenario::write_file("/proc/self/coredump_filter", "0x13");
  personality(ADDR_NO_RANDOMIZE | static_cast<unsigned long>(personality(0xffffffff)));
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "a (strange) na\n");
  prctl(PR_SET_TIMERSLACK, 70000);
  prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
  std::array<pthread_t, 3> threads{};
  for (std::size_t i = 0; i < threads.size(); ++i)
    pthread_create(&threads.at(i), nullptr, thread_main, reinterpret_cast<void*>(i));
  while (set_up < 3) scenario::pause_ms(1);
  const auto process_before = process_view();
  const auto thread_before = thread_view();

  scenario::ready_and_wait();

  compare("process", process_before, process_view());
  compare("main thread", thread_before, thread_view());
  go = true;
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return scenario::finish();
}
