// SPDX-License-Identifier: Apache-2.0
// Seccomp: what each thread may not do is what it could not do before, with or without no_new_privs, filters or strict.
// scenario: root
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <fstream>

#include "tree.h"

namespace {

enum class NewPrivileges { kKept, kGivenUp };

// From here on the call fails with that error.
void forbid(long call, int error, unsigned flags, NewPrivileges privileges) {
  std::array code = {
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  if (privileges == NewPrivileges::kGivenUp) SETUP(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  SETUP(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

// 0 if the call works.
int error_of(long call) {
  errno = 0;
  return syscall(call, 0) == -1 ? errno : 0;
}

long status_number(pid_t tid, const std::string& key) {
  std::ifstream file("/proc/self/task/" + std::to_string(tid) + "/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with(key + ":")) return std::stol(line.substr(key.size() + 1));
  }
  return -1;
}

// Whether the confinement of this thread is the expected one.
void check_thread(const char* who, int filters, int getsid_error, int getpgid_error, bool no_new_privs) {
  const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  CHECK(error_of(SYS_getsid) == getsid_error, "%s: getsid: %d", who, error_of(SYS_getsid));
  CHECK(error_of(SYS_getpgid) == getpgid_error, "%s: getpgid: %d", who, error_of(SYS_getpgid));
  CHECK(status_number(tid, "Seccomp") == (filters ? 2 : 0), "%s: Seccomp: %ld", who, status_number(tid, "Seccomp"));
  CHECK(status_number(tid, "Seccomp_filters") == filters, "%s: %ld filters, not %d", who,
        status_number(tid, "Seccomp_filters"), filters);
  CHECK(status_number(tid, "NoNewPrivs") == (no_new_privs ? 1 : 0), "%s: NoNewPrivs differs", who);
}

std::atomic<int> set_up = 0;
std::atomic<bool> go_on = false;
std::atomic<int> threads_error = -1;

void* thread_with_one_more(void*) {
  forbid(SYS_getpgid, 78, 0, NewPrivileges::kKept);
  ++set_up;
  while (!go_on) scenario::pause_ms(5);
  check_thread("the thread with one filter more", 2, 77, 78, true);
  return nullptr;
}

void* thread_as_all(void*) {
  ++set_up;
  while (!go_on) scenario::pause_ms(5);
  check_thread("the other thread", 1, 77, 0, true);
  return nullptr;
}

// A filter for all threads needs all of them to have the same ones before.
long threads_still_agree() {
  forbid(SYS_getppid, 79, SECCOMP_FILTER_FLAG_TSYNC, NewPrivileges::kKept);
  return error_of(SYS_getppid);
}

}  // namespace

int main() {
  // Root without no_new_privs; the filter came before the thread.
  std::atomic<bool>* const asked = new std::atomic<bool>(false);
  scenario::Member privileged(
      [&] {
        forbid(SYS_getsid, 77, 0, NewPrivileges::kKept);
        pthread_t thread{};
        pthread_create(
            &thread, nullptr,
            [](void* flag) -> void* {
              while (!*static_cast<std::atomic<bool>*>(flag)) scenario::pause_ms(5);
              return reinterpret_cast<void*>(std::intptr_t{error_of(SYS_getppid)});
            },
            asked);
        pthread_detach(thread);
      },
      [](char question) -> long {
        if (question == 'e') return error_of(SYS_getsid);
        if (question == 'n') return status_number(getpid(), "NoNewPrivs");
        return threads_still_agree();
      });
  // Strict: nothing but read, write and exit.
  scenario::Member strict([] { SETUP(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)); }, [](char) { return 4711L; });
  // Not the main thread, but another one is confined.
  scenario::Member mixed(
      [] {
        pthread_t thread{};
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
              forbid(SYS_getsid, 80, SECCOMP_FILTER_FLAG_LOG, NewPrivileges::kGivenUp);
              ++set_up;
              while (!go_on) scenario::pause_ms(5);
              threads_error = error_of(SYS_getsid);
              return nullptr;
            },
            nullptr);
        pthread_detach(thread);
        while (set_up == 0) scenario::pause_ms(1);
      },
      [](char) -> long {
        go_on = true;
        while (threads_error < 0) scenario::pause_ms(1);
        return error_of(SYS_getsid) * 1000 + threads_error;
      });
  forbid(SYS_getsid, 77, 0, NewPrivileges::kGivenUp);
  std::array<pthread_t, 2> threads{};
  pthread_create(threads.data(), nullptr, thread_with_one_more, nullptr);
  pthread_create(&threads[1], nullptr, thread_as_all, nullptr);
  while (set_up < 2) scenario::pause_ms(1);

  scenario::ready_and_wait();

  check_thread("the main thread", 1, 77, 0, true);
  go_on = true;
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  CHECK_EQ(privileged.ask('e'), 77);
  CHECK_EQ(privileged.ask('n'), 0);
  CHECK_EQ(privileged.ask('t'), 79);
  CHECK_EQ(strict.ask('s'), 4711);
  CHECK_EQ(mixed.ask('m'), 80);
  const int status = strict.end();
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the strict process ended with status %x", status);
  CHECK_EQ(WEXITSTATUS(privileged.end()), 7);
  CHECK_EQ(WEXITSTATUS(mixed.end()), 7);
  return scenario::finish();
}
