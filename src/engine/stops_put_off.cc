// SPDX-License-Identifier: Apache-2.0
#include "engine/stops_put_off.h"

namespace stasis {
namespace {

// A signal handler's, so there is one.
volatile sig_atomic_t g_stop_came = 0;
void note_stop(int) { g_stop_came = 1; }

}  // namespace

StopsPutOff::StopsPutOff() {
  g_stop_came = 0;
  struct sigaction note{}, ignore{};
  note.sa_handler = note_stop;
  note.sa_flags = SA_RESTART;
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGTSTP, nullptr, &stop_);
  if (stop_.sa_handler == SIG_DFL) ::sigaction(SIGTSTP, &note, nullptr);
  ::sigaction(SIGTTIN, &ignore, &input_);
  ::sigaction(SIGTTOU, &ignore, &output_);
}

StopsPutOff::~StopsPutOff() {
  ::sigaction(SIGTSTP, &stop_, nullptr);
  ::sigaction(SIGTTIN, &input_, nullptr);
  ::sigaction(SIGTTOU, &output_, nullptr);
  if (g_stop_came != 0) ::raise(SIGTSTP);
}

}  // namespace stasis
