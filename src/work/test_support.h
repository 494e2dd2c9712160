// SPDX-License-Identifier: Apache-2.0
// For the tests of workers and work queues: works that report and can be held, and waiting without sleeping.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "stasis/work.h"

namespace stasis::test {

// Opens once, for everybody.
class Gate {
 public:
  void open() {
    open_.store(true);
    open_.notify_all();
  }
  void wait() const { open_.wait(false); }
  bool is_open() const { return open_.load(); }

 private:
  std::atomic<bool> open_{false};
};

// Yields until `condition` holds. Not a matter of time: only a hang ends it otherwise, with a message.
inline void await(const std::function<bool()>& condition, const char* what = "condition") {
  constexpr auto kHang = std::chrono::seconds(100);
  const auto start = std::chrono::steady_clock::now();
  while (!condition()) {
    std::this_thread::yield();
    if (std::chrono::steady_clock::now() - start > kHang) {
      std::fprintf(stderr, "hang: waited in vain for: %s\n", what);
      std::abort();
    }
  }
}

// Counts its runs, and can be held inside its function.
struct ProbeWork : DelayedWork {
  ProbeWork() : DelayedWork(method<&ProbeWork::run>) {}
  explicit ProbeWork(std::function<void(ProbeWork&)> then) : ProbeWork() { body = std::move(then); }
  void run() {
    ++starts;
    starts.notify_all();
    if (held) leave.wait();
    if (body) body(*this);
    ++runs;
    runs.notify_all();
  }
  void await_starts(int count) const {
    for (int seen = starts; seen < count; seen = starts) starts.wait(seen);
  }

  std::function<void(ProbeWork&)> body;
  bool held = false;  // set before it is queued
  Gate leave;
  std::atomic<int> starts{0};
  std::atomic<int> runs{0};
};

// While it lives no thread can be started: none has so large a stack.
class NoThreads {
 public:
  NoThreads() {
    EXPECT_EQ(::pthread_getattr_default_np(&before_), 0);
    pthread_attr_t attributes;
    EXPECT_EQ(::pthread_getattr_default_np(&attributes), 0);
    EXPECT_EQ(::pthread_attr_setstacksize(&attributes, std::size_t{1} << 47), 0);
    EXPECT_EQ(::pthread_setattr_default_np(&attributes), 0);
    ::pthread_attr_destroy(&attributes);
  }
  ~NoThreads() {
    EXPECT_EQ(::pthread_setattr_default_np(&before_), 0);
    ::pthread_attr_destroy(&before_);
  }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;

 private:
  pthread_attr_t before_{};
};

// The order in which works ran.
class Journal {
 public:
  void add(std::string entry) {
    const std::lock_guard lock(mutex_);
    entries_.push_back(std::move(entry));
  }
  std::vector<std::string> entries() const {
    const std::lock_guard lock(mutex_);
    return entries_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> entries_;
};

}  // namespace stasis::test
