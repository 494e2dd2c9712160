// SPDX-License-Identifier: Apache-2.0
// Threads keep what is theirs: ids, names, TLS, alternate stacks, robust lists, rseq, and the way they are joined.
// scenario: also-static
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>

#include "scenario.h"

extern "C" {
extern const std::ptrdiff_t __rseq_offset;
extern const unsigned int __rseq_size;
}

namespace {

constexpr int kThreads = 8;

struct RseqArea {
  std::uint32_t cpu_id_start;
  std::uint32_t cpu_id;
};

thread_local int tls_number = -1;
thread_local std::array<char, 300> tls_text;
std::atomic<int> set_up = 0;
std::atomic<bool> checked = false;
pthread_barrier_t finish_line;
pthread_mutex_t robust_mutex;
std::atomic<const char*> handler_stack = nullptr;

struct ThreadView {
  long tid;
  pthread_t self;
  std::string name;
  stack_t altstack;
  void* robust_head;
  std::size_t robust_length;
  int* clear_tid;
  std::uint32_t rseq_size;
};

ThreadView look() {
  ThreadView view{};
  view.tid = syscall(SYS_gettid);
  view.self = pthread_self();
  char name[32] = {};
  prctl(PR_GET_NAME, name);
  view.name = name;
  sigaltstack(nullptr, &view.altstack);
  syscall(SYS_get_robust_list, 0, &view.robust_head, &view.robust_length);
  if (prctl(PR_GET_TID_ADDRESS, &view.clear_tid) != 0) view.clear_tid = nullptr;
  view.rseq_size = __rseq_size;
  return view;
}

void on_signal(int) {
  char here = 0;
  handler_stack = &here;
}

bool rseq_is_live() {
  if (__rseq_size == 0) return true;
  const volatile auto* area =
      reinterpret_cast<const volatile RseqArea*>(static_cast<const char*>(__builtin_thread_pointer()) + __rseq_offset);
  // The kernel writes the field whenever the thread comes back from being moved or preempted, so after a yield to a CPU
  // that the thread is bound to it must name that one.
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof allowed, &allowed);
  bool live = true;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    live = live && static_cast<int>(area->cpu_id) == cpu;
  }
  sched_setaffinity(0, sizeof allowed, &allowed);
  return live;
}

void check_thread(int number, const ThreadView& before) {
  const ThreadView after = look();
  CHECK_EQ(after.tid, before.tid);
  CHECK(pthread_equal(after.self, before.self), "thread %d: pthread_self differs", number);
  CHECK(after.name == before.name, "thread %d: name is %s, not %s", number, after.name.c_str(), before.name.c_str());
  CHECK_EQ(tls_number, number);
  CHECK(tls_text[299] == static_cast<char>('a' + number), "thread %d: TLS text differs", number);
  CHECK(after.altstack.ss_sp == before.altstack.ss_sp && after.altstack.ss_size == before.altstack.ss_size &&
            after.altstack.ss_flags == before.altstack.ss_flags,
        "thread %d: alternate stack %p+%zu flags %x, not %p+%zu flags %x", number, after.altstack.ss_sp,
        after.altstack.ss_size, after.altstack.ss_flags, before.altstack.ss_sp, before.altstack.ss_size,
        before.altstack.ss_flags);
  CHECK(after.robust_head == before.robust_head && after.robust_length == before.robust_length,
        "thread %d: robust list %p/%zu, not %p/%zu", number, after.robust_head, after.robust_length, before.robust_head,
        before.robust_length);
  CHECK(after.clear_tid == before.clear_tid, "thread %d: clear_child_tid %p, not %p", number,
        static_cast<void*>(after.clear_tid), static_cast<void*>(before.clear_tid));
  CHECK(rseq_is_live(), "thread %d: rseq is not registered any more", number);
}

void* thread_main(void* argument) {
  const int number = static_cast<int>(reinterpret_cast<std::intptr_t>(argument));
  tls_number = number;
  tls_text.fill(static_cast<char>('a' + number));
  const std::string name = "worker " + std::to_string(number);
  pthread_setname_np(pthread_self(), name.c_str());
  // Odd threads have an alternate stack, one of them with SS_AUTODISARM.
  std::array<char, 65536>* stack_memory = nullptr;
  if (number % 2 == 1) {
    stack_memory = new std::array<char, 65536>;
    stack_t stack = {};
    stack.ss_sp = stack_memory->data();
    stack.ss_size = stack_memory->size();
    stack.ss_flags = number == 3 ? static_cast<int>(1U << 31) : 0;
    SETUP(sigaltstack(&stack, nullptr));
  }
  if (number == 0) pthread_mutex_lock(&robust_mutex);
  const ThreadView before = look();
  ++set_up;
  while (!checked) scenario::pause_ms(5);
  check_thread(number, before);
  if (number == 1) {
    pthread_kill(pthread_self(), SIGUSR1);
    const char* at = handler_stack;
    CHECK(at >= stack_memory->data() && at < stack_memory->data() + stack_memory->size(),
          "the handler ran at %p, not on the alternate stack", static_cast<const void*>(at));
  }
  pthread_barrier_wait(&finish_line);
  if (stack_memory != nullptr) {
    stack_t off = {};
    off.ss_flags = SS_DISABLE;
    sigaltstack(&off, nullptr);
    delete stack_memory;
  }
  return reinterpret_cast<void*>(std::intptr_t{1000} + number);  // thread 0 dies holding the robust mutex
}

}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  SETUP(sigaction(SIGUSR1, &action, nullptr));
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&robust_mutex, &attributes);
  pthread_barrier_init(&finish_line, nullptr, kThreads);
  tls_number = 4711;
  std::array<pthread_t, kThreads> threads{};
  for (int i = 0; i < kThreads; ++i)
    if (pthread_create(&threads.at(static_cast<std::size_t>(i)), nullptr, thread_main,
                       reinterpret_cast<void*>(std::intptr_t{i})) != 0)
      scenario::broken_setup("pthread_create", __FILE__, __LINE__);
  while (set_up < kThreads) scenario::pause_ms(1);
  const ThreadView before = look();

  scenario::ready_and_wait();

  CHECK_EQ(tls_number, 4711);
  const ThreadView after = look();
  CHECK_EQ(after.tid, before.tid);
  CHECK_EQ(after.tid, getpid());
  CHECK(after.robust_head == before.robust_head, "main thread: robust list differs");
  checked = true;
  for (int i = 0; i < kThreads; ++i) {
    void* value = nullptr;
    CHECK(pthread_join(threads.at(static_cast<std::size_t>(i)), &value) == 0, "thread %d can't be joined", i);
    CHECK(value == reinterpret_cast<void*>(std::intptr_t{1000} + i), "thread %d returned %p", i, value);
  }
  CHECK_EQ(pthread_mutex_lock(&robust_mutex), EOWNERDEAD);
  return scenario::finish();
}
