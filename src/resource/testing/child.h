// SPDX-License-Identifier: Apache-2.0
// For unit tests of resource kinds: a child of the test that sets itself up and then waits, and a freeze of it.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <utility>

#include "base/ids.h"
#include "kernel/proc_dir.h"
#include "tracee/batch_checks.h"
#include "tracee/process.h"

namespace stasis::testing {

// Waits (at most two minutes) until the main thread of a process that has nothing left to do but to wait really sleeps,
// or has ended: before that it may still be on its way, on an idle machine as on a busy one.
inline void await_sleep(HostPid pid) {
  for (int i = 0; i < 120'000; ++i) {
    const auto proc = kernel::ProcDir::open(pid);
    const auto stat = proc ? proc->stat() : Result<kernel::ProcStat>(proc.error());
    if (!stat || (stat->state != 'R' && stat->state != 'D')) return;
    ::usleep(1000);
  }
  ADD_FAILURE() << "process " << pid.value() << " does not come to rest";
}

// Runs `setup` in a fork, then waits in pause() until it is killed. setup() yields whether it could do its work.
class Child {
 public:
  template <class Setup>
  explicit Child(Setup setup) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ready[0]);
      const char word = setup() ? 'y' : 'n';
      const bool told = ::write(ready[1], &word, 1) == 1;
      ::close(ready[1]);
      if (!told) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char word = 0;
    ready_ = ::read(ready[0], &word, 1) == 1 && word == 'y';
    ::close(ready[0]);
    if (ready_) await_sleep(pid());
  }
  Child() : Child([] { return true; }) {}
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, __WALL);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // False: setup() said no, or died.
  bool ready() const { return ready_; }
  HostPid pid() const { return HostPid(pid_); }

 private:
  pid_t pid_ = -1;
  bool ready_ = false;
};

// A process frozen with its gate open; it runs on when this is dropped.
class Frozen {
 public:
  explicit Frozen(HostPid pid) : patience_(std::chrono::seconds(120), nullptr) {
    process_ = value_of(TracedProcess::attach(pid, TracedProcess::Seccomp::kNone));
    must(process_->settle(patience_));
    const auto vmas = value_of(process_->proc().maps());
    must(process_->open_gate(find_gadgets(process_->memory(), vmas), vmas, patience_));
  }

  TracedProcess& process() { return *process_; }
  const kernel::ProcDir& proc() const { return process_->proc(); }
  HostPid tid() { return process_->carrier().tid(); }
  Batch batch(Batch::OnError on_error = Batch::OnError::kContinue) const {
    return Batch(process_->carrier_slot(), on_error);
  }
  void run(const Batch& batch) { must(process_->run(batch, patience_)); }
  // `fill(batch, checks)` in a batch that stops at the first failure, as at a restart; what the checks say.
  template <class Fill>
  Result<void> run_checked(Fill fill) {
    Batch calls = batch(Batch::OnError::kStop);
    BatchChecks checks;
    fill(calls, checks);
    run(calls);
    return checks.verify(calls);
  }

 private:
  // Ends the test, but not without its destructors.
  static void must(const Result<void>& result) {
    if (!result) throw std::runtime_error(result.error().to_string());
  }
  template <class T>
  static T value_of(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().to_string());
    return std::move(*result);
  }

  Patience patience_;
  std::unique_ptr<TracedProcess> process_;
};

}  // namespace stasis::testing
