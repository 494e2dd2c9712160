// SPDX-License-Identifier: Apache-2.0
#include "kernel/path_open.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/openat2.h>
#include <sys/fsuid.h>

#include <cerrno>
#include <utility>

#include "kernel/raw.h"

namespace stasis::kernel {
namespace {

constexpr uid_t kAsk = static_cast<uid_t>(-1);  // setfsuid(2): changes nothing, tells what is

// The thread's own groups: glibc's setgroups(3) would change those of all threads.
bool set_groups(const std::vector<gid_t>& groups) {
  return raw("setgroups", SYS_setgroups, groups.size(), groups.data()) == 0;
}

bool set_ids(uid_t uid, gid_t gid) {
  ::setfsgid(gid);
  ::setfsuid(uid);
  return static_cast<gid_t>(::setfsgid(kAsk)) == gid && static_cast<uid_t>(::setfsuid(kAsk)) == uid;
}

}  // namespace

Result<UniqueFd> open_without_magic(const std::string& path, int flags, mode_t mode) {
  if (path.find('\0') != std::string::npos) return Error(Errc::kInvalidArgument, "a path with a NUL byte");
  open_how how{};
  how.flags = static_cast<std::uint32_t>(flags | O_CLOEXEC);
  how.mode = mode;
  how.resolve = RESOLVE_NO_MAGICLINKS;
  for (;;) {
    UniqueFd fd(static_cast<int>(raw("openat2", SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how)));
    if (fd) return fd;
    if (errno == EINTR || errno == EAGAIN) continue;
    const int code = errno;
    Error error = Error::from_errno(code, "open " + path);
    if (code != ENOENT && code != ENOTDIR) return error;
    return std::move(error).with_code(Errc::kFileMissing);
  }
}

Result<ScopedFileCredentials> ScopedFileCredentials::take(const FileCredentials& credentials) {
  ScopedFileCredentials scoped;
  scoped.previous_ = {static_cast<uid_t>(::setfsuid(kAsk)), static_cast<gid_t>(::setfsgid(kAsk)), {}};
  const int count = ::getgroups(0, nullptr);
  if (count < 0) return Error::from_errno(errno, "getgroups");
  scoped.previous_.groups.resize(static_cast<std::size_t>(count));
  if (::getgroups(count, scoped.previous_.groups.data()) < 0) return Error::from_errno(errno, "getgroups");
  scoped.active_ = true;  // from here on the destructor puts back what was changed
  if (!set_groups(credentials.groups)) return Error::from_errno(errno, "setgroups");
  if (!set_ids(credentials.uid, credentials.gid)) {
    return Error(Errc::kMissingCapability, "can't take the file rights of another user")
        .with_help("needs CAP_SETUID and CAP_SETGID");
  }
  return scoped;
}

ScopedFileCredentials::ScopedFileCredentials(ScopedFileCredentials&& other) noexcept
    : previous_(std::move(other.previous_)), active_(std::exchange(other.active_, false)) {}

ScopedFileCredentials::~ScopedFileCredentials() {
  if (!active_) return;
  set_ids(previous_.uid, previous_.gid);
  set_groups(previous_.groups);
}

}  // namespace stasis::kernel
