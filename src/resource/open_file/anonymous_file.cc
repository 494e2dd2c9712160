// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/anonymous_file.h"

#include <fcntl.h>

#include <cerrno>

namespace stasis {

Result<void> set_status_flags(int fd, std::uint32_t flags) {
  constexpr std::uint32_t kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
  if (::fcntl(fd, F_SETFL, static_cast<int>(flags & kSettable)) == 0) return {};
  return Error::from_errno(errno, "set the flags of a descriptor");
}

}  // namespace stasis
