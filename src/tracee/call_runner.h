// SPDX-License-Identifier: Apache-2.0
// CallRunner: any number of calls in a new process, in batches as large as the gate's slot takes.
#pragma once

#include <string>

#include "tracee/batch_checks.h"
#include "tracee/new_process.h"

namespace stasis {

// Calls run in order; a failing one ends everything with its name. Nothing is run until a batch is full or flush().
//
//   CallRunner calls(process, patience);
//   STASIS_TRY(calls.call("mmap of the stack", SYS_mmap, start, size, ...));
//   STASIS_TRY(calls.flush());
class CallRunner {
 public:
  CallRunner(NewProcess& process, const Patience& patience)
      : process_(process), patience_(patience), batch_(process.batch()) {}
  // In a slot of its own, so that several processes run their calls at one time.
  CallRunner(NewProcess& process, const Patience& patience, const GateSlot& slot)
      : process_(process), patience_(patience), batch_(slot, Batch::OnError::kStop) {}

  template <class... Args>
  Result<void> call(std::string what, long nr, Args... args) {
    STASIS_TRY(make_room(1, 0));
    checks_.add(batch_.call(nr, args...), std::move(what));
    return {};
  }
  // For calls with data: makes room for both, so that what is put into batch() stays with the calls that follow.
  Result<void> make_room(std::size_t calls, std::size_t data_bytes) {
    if (batch_.has_room(calls, data_bytes)) return {};
    STASIS_TRY(flush());
    if (!batch_.has_room(calls, data_bytes)) return Error(Errc::kOverflow, "a batch is larger than the gate");
    return {};
  }
  Batch& batch() { return batch_; }
  BatchChecks& checks() { return checks_; }
  Result<void> flush() {
    STASIS_TRY(start());
    return finish();
  }
  // The same in two steps; nothing else may be done with the process in between.
  Result<void> start() {
    if (batch_.empty()) return {};
    running_ = true;
    return process_.start(batch_);
  }
  Result<void> finish() {
    if (!running_) return {};
    running_ = false;
    STASIS_TRY(process_.finish(patience_));
    STASIS_TRY(checks_.verify(batch_));
    batch_.clear();
    checks_.clear();
    return {};
  }

 private:
  NewProcess& process_;
  const Patience& patience_;
  Batch batch_;
  BatchChecks checks_;
  bool running_ = false;
};

}  // namespace stasis
