// SPDX-License-Identifier: Apache-2.0
// A main thread that has ended while others run: they go on with files, memory, children and timers, and the process
// ends when the last of them does.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <array>
#include <atomic>
#include <fstream>

#include "tree.h"

namespace {

constexpr int kLeaderStatus = 23;

// A child whose main thread has ended as well, with a status of its own.
struct Shared {
  std::atomic<int> set_up;
  std::atomic<int> finish;
  std::atomic<int> ok;
};
Shared* shared = nullptr;
std::atomic<int> ticks = 0;

std::string status_field(pid_t pid, const std::string& key) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with(key + ":")) continue;
    const auto value = line.find_first_not_of(" \t", key.size() + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "?";
}

void* childs_thread(void*) {
  while (status_field(getpid(), "State").front() != 'Z') scenario::pause_ms(1);
  const long tid = syscall(SYS_gettid);
  const int fd = open(scenario::path("child.txt").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (write(fd, "abc", 3) == 3) ++shared->set_up;
  while (shared->finish == 0) scenario::pause_ms(5);
  const bool same = syscall(SYS_gettid) == tid && status_field(getpid(), "State").front() == 'Z' &&
                    lseek(fd, 0, SEEK_CUR) == 3 && status_field(getpid(), "Name") == "gone";
  shared->ok = same ? 1 : -1;
  syscall(SYS_exit,
          kLeaderStatus);  // before Linux 5.17 the leader's status is that of the process, since then the last thread's
  return nullptr;
}

[[noreturn]] void child() {
  prctl(PR_SET_NAME, "gone");
  pthread_t thread{};
  if (pthread_create(&thread, nullptr, childs_thread, nullptr) != 0) _exit(99);
  syscall(SYS_exit, kLeaderStatus);
  __builtin_unreachable();
}

void on_tick(int) { ++ticks; }

pid_t child_pid = 0;
pthread_t main_thread;

void* second(void*) {
  while (!scenario::exists(scenario::path("go"))) scenario::pause_ms(2);
  return reinterpret_cast<void*>(4711);
}

void* first(void*) {
  while (status_field(getpid(), "State").front() != 'Z' || shared->set_up < 1) scenario::pause_ms(1);
  pthread_t other{};
  if (pthread_create(&other, nullptr, second, nullptr) != 0)
    scenario::broken_setup("pthread_create", __FILE__, __LINE__);
  // A child that a thread other than the main one made, and that is to die with its parent.
  scenario::Member member([] {}, [](char) { return static_cast<long>(getppid()); });
  const long tid = syscall(SYS_gettid);
  const int fd = SETUP(open(scenario::path("text").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  SETUP(write(fd, "hello", 5));
  SETUP(chdir(scenario::path("").c_str()));
  umask(0137);
  struct itimerval every{};
  every.it_interval.tv_usec = every.it_value.tv_usec = 10000;
  SETUP(setitimer(ITIMER_REAL, &every, nullptr));
  const std::string groups = status_field(getpid(), "Groups");

  scenario::ready_and_wait();

  CHECK_EQ(syscall(SYS_gettid), tid);
  CHECK(status_field(getpid(), "State").front() == 'Z', "the main thread is in state %s",
        status_field(getpid(), "State").c_str());
  CHECK(status_field(getpid(), "Name") == "first life", "the main thread is called %s",
        status_field(getpid(), "Name").c_str());
  CHECK_EQ(std::stoi(status_field(getpid(), "Uid")), getuid());
  CHECK(status_field(getpid(), "Groups") == groups, "groups are %s", status_field(getpid(), "Groups").c_str());
  CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
  CHECK_EQ(umask(0), 0137);
  CHECK(scenario::exists("text"), "the working directory is another");
  CHECK_EQ(member.ask('p'), getpid());
  const int before = ticks;
  CHECK(scenario::wait_until([&] { return ticks > before; }), "the interval timer is gone");
  const struct itimerval none{};
  setitimer(ITIMER_REAL, &none, nullptr);
  void* value = nullptr;
  CHECK_EQ(pthread_join(other, &value), 0);
  CHECK(value == reinterpret_cast<void*>(4711), "the thread returned %p", value);
  CHECK_EQ(pthread_join(main_thread, &value), 0);
  CHECK_EQ(WEXITSTATUS(member.end()), 7);

  shared->finish = 1;
  int status = -1;
  CHECK_EQ(waitpid(child_pid, &status, 0), child_pid);
  CHECK_EQ(shared->ok.load(), 1);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == kLeaderStatus, "the child's wait status is %x", status);
  exit(scenario::finish());
}

}  // namespace

int main() {
  struct sigaction action{};
  action.sa_handler = on_tick;
  action.sa_flags = SA_RESTART;
  SETUP(sigaction(SIGALRM, &action, nullptr));
  shared =
      static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  prctl(PR_SET_NAME, "first life");
  child_pid = SETUP(fork());
  if (child_pid == 0) child();
  main_thread = pthread_self();
  pthread_t thread{};
  if (pthread_create(&thread, nullptr, first, nullptr) != 0)
    scenario::broken_setup("pthread_create", __FILE__, __LINE__);
  pthread_exit(nullptr);
}
