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
    if (batch_.empty()) return {};
    STASIS_TRY(process_.run(batch_, patience_));
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
};

}  // namespace stasis
