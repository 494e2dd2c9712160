// SPDX-License-Identifier: Apache-2.0
// For unit tests of resource kinds: a child of the test that sets itself up and then waits, and a freeze of it.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "kernel/proc_dir.h"
#include "tracee/batch_checks.h"
#include "tracee/process.h"

namespace stasis::testing {

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
  explicit Frozen(HostPid pid) : patience_(std::chrono::seconds(20), nullptr) {
    auto process = TracedProcess::attach(pid, TracedProcess::Seccomp::kNone);
    EXPECT_TRUE(process) << process.error().to_string();
    if (!process) return;
    process_ = std::move(*process);
    const auto settled = process_->settle(patience_);
    EXPECT_TRUE(settled) << settled.error().to_string();
    auto vmas = process_->proc().maps();
    EXPECT_TRUE(vmas);
    const auto opened = process_->open_gate(find_gadgets(process_->memory(), *vmas), *vmas, patience_);
    EXPECT_TRUE(opened) << opened.error().to_string();
  }

  TracedProcess& process() { return *process_; }
  const kernel::ProcDir& proc() const { return process_->proc(); }
  HostPid tid() { return process_->carrier().tid(); }
  Batch batch(Batch::OnError on_error = Batch::OnError::kContinue) const {
    return Batch(process_->carrier_slot(), on_error);
  }
  void run(const Batch& batch) {
    const auto ran = process_->run(batch, patience_);
    EXPECT_TRUE(ran) << ran.error().to_string();
  }
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
  Patience patience_;
  std::unique_ptr<TracedProcess> process_;
};

}  // namespace stasis::testing
