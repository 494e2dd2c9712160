// SPDX-License-Identifier: Apache-2.0
#include "base/closed_streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>

namespace stasis {
namespace {

constinit std::array<bool, 3> g_was_closed{};

}  // namespace

void fill_closed_streams() noexcept {
  for (int number = 0; number < 3; ++number) {
    if (::fcntl(number, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number: those below are open by now.
    (void)::open("/dev/null", number == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    g_was_closed[static_cast<std::size_t>(number)] = true;
  }
}

bool stream_was_closed(int number) noexcept {
  return number >= 0 && number < 3 && g_was_closed[static_cast<std::size_t>(number)];
}

}  // namespace stasis
