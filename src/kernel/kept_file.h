// SPDX-License-Identifier: Apache-2.0
// KeptFile: a file of /proc/PID that is opened while the program runs and read again while it stands. The opening is
// most of what a short file costs.
#pragma once

#include <string>

#include "base/unique_fd.h"
#include "kernel/proc_dir.h"
#include "stasis/result.h"

namespace stasis::kernel {

// Only for what belongs to a task, such as stat, schedstat or children: files of its memory (maps, auxv, pagemap) tell
// of the memory that it had when they were opened.
class KeptFile {
 public:
  KeptFile() = default;
  // Keeps nothing where it can't be opened, or where half of the descriptors that we may have are in use.
  static KeptFile open(const ProcDir& proc, const std::string& name);

  explicit operator bool() const { return static_cast<bool>(fd_); }
  // What it says now. Errors: the task is gone (`children` is empty then). REQUIRES: it is kept.
  Result<std::string> read() const;

 private:
  explicit KeptFile(UniqueFd fd) : fd_(std::move(fd)) {}

  UniqueFd fd_;
};

}  // namespace stasis::kernel
