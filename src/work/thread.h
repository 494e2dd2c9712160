// SPDX-License-Identifier: Apache-2.0
// Threads of workers and work queues. Not std::thread: the CPU must be set before the thread starts, failure must not
// throw, and a child of fork() must be able to forget a thread that it does not have.
#pragma once

#include <pthread.h>

#include <optional>
#include <string>

#include "stasis/result.h"

namespace stasis::detail {

struct ThreadOptions {
  std::string name;        // cut to 15 bytes
  std::optional<int> cpu;  // the only CPU it may run on
};

// Starts `main(argument)`, to be joined by the caller, with all signals blocked but those a fault of its own raises, so
// that the program's signal handlers never run on it.
Result<pthread_t> start_thread(const ThreadOptions& options, void (*main)(void*) noexcept, void* argument) noexcept;
// REQUIRES: started by start_thread(), not joined yet, not the calling thread.
void join_thread(pthread_t thread) noexcept;

}  // namespace stasis::detail
