// SPDX-License-Identifier: Apache-2.0
#include "work/thread.h"

#include <sched.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>

namespace stasis::detail {
namespace {

constexpr std::size_t kNameLimit = 15;  // TASK_COMM_LEN - 1

struct Start {
  void (*main)(void*) noexcept;
  void* argument;
  std::string name;
};

void* enter(void* argument) {
  const std::unique_ptr<Start> start(static_cast<Start*>(argument));
  // Only a label: failure is of no consequence.
  (void)::pthread_setname_np(::pthread_self(), start->name.c_str());
  start->main(start->argument);
  return nullptr;
}

int set_cpu(pthread_attr_t& attributes, int cpu) {
  if (cpu < 0 || cpu >= CPU_SETSIZE) return EINVAL;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  return ::pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
}

Error failure(int error, const ThreadOptions& options) {
  if (error == EINVAL && options.cpu) {
    return Error(Errc::kInvalidArgument, "thread " + options.name + ": CPU " + std::to_string(*options.cpu) +
                                             " does not exist or is not allowed");
  }
  return Error::from_errno(error, "can't start thread " + options.name);
}

}  // namespace

Result<pthread_t> start_thread(const ThreadOptions& options, void (*main)(void*) noexcept, void* argument) noexcept
    try {
  auto start = std::make_unique<Start>(Start{main, argument, options.name.substr(0, kNameLimit)});
  pthread_attr_t attributes;
  if (const int error = ::pthread_attr_init(&attributes); error != 0) return failure(error, options);
  int error = options.cpu ? set_cpu(attributes, *options.cpu) : 0;
  pthread_t thread{};
  if (error == 0) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) sigdelset(&all, fault);
    (void)::pthread_sigmask(SIG_SETMASK, &all, &before);
    error = ::pthread_create(&thread, &attributes, enter, start.get());
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ::pthread_attr_destroy(&attributes);
  if (error != 0) return failure(error, options);
  (void)start.release();  // NOLINT(bugprone-unused-return-value): the thread's now
  return thread;
} catch (const std::bad_alloc&) {
  return Error(Errc::kNoMemory, "no memory for a thread");
}

void join_thread(pthread_t thread) noexcept {
  if (::pthread_join(thread, nullptr) != EDEADLK) return;
  // What the caller does next is to free the memory that this thread runs on.
  std::fputs("stasis: a worker or work queue was destroyed by one of its own works\n", stderr);
  std::abort();
}

}  // namespace stasis::detail
