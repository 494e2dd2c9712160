// SPDX-License-Identifier: Apache-2.0
// Ctrl-Z while a program is frozen would stop us and leave the program frozen for as long.
#pragma once

#include <signal.h>

namespace stasis {

// While one lives, SIGTSTP, SIGTTIN and SIGTTOU do not stop this process, in whichever thread they arrive; a SIGTSTP
// that came does when it goes. (Who reads or writes at a terminal in the background gets the others again.) One at a
// time.
class StopsPutOff {
 public:
  StopsPutOff();
  ~StopsPutOff();
  StopsPutOff(const StopsPutOff&) = delete;
  StopsPutOff& operator=(const StopsPutOff&) = delete;

 private:
  struct sigaction stop_{}, input_{}, output_{};
};

}  // namespace stasis
