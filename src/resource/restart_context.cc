// SPDX-License-Identifier: Apache-2.0
#include "resource/restart_context.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <cerrno>

#include "kernel/path_open.h"

namespace stasis {

Error RestoredFile::unbound(int number) const {
  return Error(Errc::kInternal, fmt::format("descriptor {} leads to a file that was not restored", number));
}

Result<UniqueFd> RestartContext::park(UniqueFd fd) const {
  if (fd.get() >= parking_base) return fd;
  return park_duplicate(fd.get());
}

Result<UniqueFd> RestartContext::park_duplicate(int fd) const {
  UniqueFd parked(::fcntl(fd, F_DUPFD_CLOEXEC, parking_base));
  if (parked) return parked;
  const int code = errno;
  Error error = Error::from_errno(code, fmt::format("duplicate descriptor {}", fd));
  if (code != EMFILE && code != EINVAL) return error;
  return std::move(error).with_help("raise the limit of open files (ulimit -n)");
}

Result<UniqueFd> RestartContext::open_path(const std::string& path, int flags) const {
  if (owner.trust == ImageTrust::kCaller) return kernel::open_without_magic(path, flags);
  const auto as_owner = STASIS_TRY(kernel::ScopedFileCredentials::take({owner.uid, owner.gid, owner.groups}));
  return kernel::open_without_magic(path, flags);
}

}  // namespace stasis
