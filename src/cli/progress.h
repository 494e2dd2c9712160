// SPDX-License-Identifier: Apache-2.0
// A progress line on stderr, if that is a terminal and the work takes more than a moment.
#pragma once

#include <chrono>
#include <string>

#include "stasis/image.h"

namespace stasis::cli {

class Progress {
 public:
  explicit Progress(std::string what);
  // For the writer or reader of an image; must not outlive this.
  ProgressHook hook();
  // Takes the line away.
  void finish();

 private:
  void show(const ImageProgress& progress);

  std::string what_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point started_, last_;
};

}  // namespace stasis::cli
