// SPDX-License-Identifier: Apache-2.0
// Threads whose numbers are smaller than that of the main thread, as those that are made after the kernel's numbers
// began anew: the main thread is the main thread all the same.
// scenario: root
#include <sys/syscall.h>

#include <array>
#include <atomic>

#include "scenario.h"

namespace {

struct Thread {
  pthread_t handle{};
  std::atomic<int> tid = 0;
  std::atomic<bool> stop = false;
};

void* run(void* argument) {
  auto& thread = *static_cast<Thread*>(argument);
  thread.tid = static_cast<int>(syscall(SYS_gettid));
  while (!thread.stop) scenario::pause_ms(2);
  CHECK_EQ(syscall(SYS_gettid), thread.tid.load());
  return nullptr;
}

void start(Thread& thread) {
  if (pthread_create(&thread.handle, nullptr, run, &thread) != 0) {
    scenario::broken_setup("pthread_create", __FILE__, __LINE__);
  }
  while (thread.tid == 0) scenario::pause_ms(1);
}

// With a smaller number than ours, if the kernel lets us choose where it goes on counting; others count, too.
bool start_low(Thread& thread) {
  for (int i = 0; i < 200; ++i) {
    const int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    const bool chosen = last >= 0 && write(last, "300", 3) == 3;
    if (last >= 0) close(last);
    if (!chosen) return false;
    start(thread);
    if (thread.tid < getpid()) return true;
    thread.stop = true;
    pthread_join(thread.handle, nullptr);
    thread.stop = false;
    thread.tid = 0;
  }
  return false;
}

}  // namespace

int main() {
  std::array<Thread, 2> threads;
  const bool low = getpid() > 400 && start_low(threads[0]);
  if (!low) {
    scenario::skip_part("threads get higher numbers");
    start(threads[0]);
  }
  start(threads[1]);
  const int pid = getpid();

  scenario::ready_and_wait();

  CHECK_EQ(getpid(), pid);
  CHECK_EQ(syscall(SYS_gettid), pid);
  for (Thread& thread : threads) {
    thread.stop = true;
    CHECK_EQ(pthread_join(thread.handle, nullptr), 0);
  }
  return scenario::finish();
}
