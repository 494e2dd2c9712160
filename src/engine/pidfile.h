// SPDX-License-Identifier: Apache-2.0
// Pidfile: where a restart leaves the pid of the program. It is opened before anything is made, so that a program never
// runs whose pid could not be written because of a missing directory or right.
#pragma once

#include <string>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {

class Pidfile {
 public:
  Pidfile() = default;
  // An empty path: none, write() does nothing. The content is left alone until write(); a file that did not exist
  // before and was never written is removed again.
  static Result<Pidfile> open(const std::string& path);
  Pidfile(Pidfile&& other) noexcept { swap(other); }
  Pidfile& operator=(Pidfile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Pidfile();

  Result<void> write(HostPid pid);

 private:
  void swap(Pidfile& other) noexcept;
  std::string path_;
  UniqueFd fd_;
  int created_by_ = 0;  // the process that made it and has not written it; a copy of that process must not remove it
};

}  // namespace stasis
