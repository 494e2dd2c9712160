// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/anonymous_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"

namespace stasis {

Result<void> set_status_flags(int fd, std::uint32_t flags) {
  constexpr std::uint32_t kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
  if (::fcntl(fd, F_SETFL, static_cast<int>(flags & kSettable)) == 0) return {};
  return Error::from_errno(errno, "set the flags of a descriptor");
}

Result<UniqueFd> reopen(int fd, std::uint32_t flags, std::int64_t offset) {
  constexpr std::uint32_t kMask =
      O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DIRECT | O_NOATIME | O_DIRECTORY | O_PATH;
  const bool path_only = (flags & O_PATH) != 0;
  const auto mask = path_only ? std::uint32_t{O_PATH | O_DIRECTORY} : kMask;
  UniqueFd opened = STASIS_TRY(open_at(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd), static_cast<int>(flags & mask)));
  if (offset == 0 || path_only || ::lseek(opened.get(), offset, SEEK_SET) == offset) return opened;
  return Error::from_errno(errno, fmt::format("set an offset to {}", offset));
}

}  // namespace stasis
