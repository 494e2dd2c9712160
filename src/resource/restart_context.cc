// SPDX-License-Identifier: Apache-2.0
#include "resource/restart_context.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/file.h"

namespace stasis {

Result<void> RestoredObject::fill(std::span<const PageRun>, std::span<const std::byte>) {
  return Error(Errc::kBadImage, "contents for an object that has none");
}

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

Result<RestartContext::Rights> RestartContext::take_rights() const {
  if (owner.trust == ImageTrust::kCaller || ::geteuid() == owner.uid) return Rights();
  return Rights(STASIS_TRY(kernel::ScopedFileCredentials::take({owner.uid, owner.gid, owner.groups})));
}

Result<UniqueFd> RestartContext::open_path(const std::string& path, int flags, mode_t mode) const {
  const Rights rights = STASIS_TRY(take_rights());
  return kernel::open_without_magic(path, flags, mode);
}

Result<int> RestartContext::reading_end(RestoredMapping& file) const {
  if (!file.read_only) {
    UniqueFd opened = STASIS_TRY(open_at(AT_FDCWD, fmt::format("/proc/self/fd/{}", file.fd.get()), O_RDONLY));
    file.read_only = STASIS_TRY(park(std::move(opened)));
  }
  return file.read_only.get();
}

Result<void> RestartContext::make_directory(const std::string& path, mode_t mode) const {
  const Rights rights = STASIS_TRY(take_rights());
  if (::mkdir(path.c_str(), mode) == 0) return {};
  return Error::from_errno(errno, "make directory " + path);
}

}  // namespace stasis
