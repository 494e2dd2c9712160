// SPDX-License-Identifier: Apache-2.0
// For scenarios of blocking system calls: each call is held by a thread of its own, and none may return before it is
// asked to, nor with a result that a plain run would not have given.
//
// Calls are made by syscall(), not by their C library wrappers, which hide interruptions and are cancellation points.
#pragma once

#include <sys/syscall.h>

#include <atomic>
#include <deque>
#include <functional>
#include <vector>

#include "scenario.h"

namespace scenario {

struct BlockingCall {
  std::string name;
  std::function<long()> call;     // blocks; returns the system call's result, errno set
  std::function<void()> release;  // makes it return; null: it can't be asked to, it just has to be there still
  std::function<bool(long, int)> right = [](long value, int) { return value >= 0; };  // (result, errno) after release
  pthread_t thread{};
  std::atomic<pid_t> tid = 0;
  std::atomic<bool> returned = false;
  bool released = false;
  long result = 0;
  int error = 0;
};

class BlockingCalls {
 public:
  BlockingCall& add(const std::string& name, std::function<long()> call, std::function<void()> release = nullptr) {
    BlockingCall& added = calls_.emplace_back();
    added.name = name;
    added.call = std::move(call);
    added.release = std::move(release);
    return added;
  }

  // Starts one thread for each; returns when all of them sleep in their call.
  void start() {
    for (BlockingCall& call : calls_)
      if (pthread_create(&call.thread, nullptr, run, &call) != 0) broken_setup("pthread_create", __FILE__, __LINE__);
    for (BlockingCall& call : calls_)
      while (!sleeps(call)) pause_ms(1);
  }

  // None has returned; then each is released in its turn and returns rightly.
  void check_and_release() {
    if (!all_there()) return;  // a release would wait for a call that is not there
    for (BlockingCall& call : calls_) {
      if (!call.release) continue;
      call.released = true;
      call.release();
      pthread_join(call.thread, nullptr);
      CHECK(call.right(call.result, call.error), "%s: released, it returned %ld (%s)", call.name.c_str(), call.result,
            std::strerror(call.error));
    }
  }

  std::size_t size() const { return calls_.size(); }

 private:
  // Has no call returned that was not released? Each thread is waited for until it is asleep or has returned, as a
  // thread that was restarted just now may not have run yet.
  bool all_there() {
    bool there = true;
    for (BlockingCall& call : calls_) {
      if (call.released) continue;
      while (!call.returned && !asleep(call)) pause_ms(1);
      there = CHECK(!call.returned, "%s returned %ld (%s) although nothing happened", call.name.c_str(), call.result,
                    std::strerror(call.error)) &&
              there;
    }
    return there;
  }

  static void* run(void* argument) {
    auto& call = *static_cast<BlockingCall*>(argument);
    call.tid = static_cast<pid_t>(syscall(SYS_gettid));
    errno = 0;
    call.result = call.call();
    call.error = errno;
    call.returned = true;
    return nullptr;
  }

  static bool sleeps(const BlockingCall& call) {
    if (call.returned) broken_setup((call.name + " returned at once").c_str(), __FILE__, __LINE__);
    return call.tid != 0 && asleep(call);
  }

  static bool asleep(const BlockingCall& call) {
    char text[512] = "";
    const int fd = open(("/proc/self/task/" + std::to_string(call.tid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    const char* state = got > 0 ? std::strrchr(text, ')') : nullptr;
    return state != nullptr && state[2] == 'S';
  }

  std::deque<BlockingCall> calls_;
};

}  // namespace scenario
