// SPDX-License-Identifier: Apache-2.0
#include "kernel/private_root.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <thread>

#include "kernel/raw.h"

namespace stasis::kernel {
namespace {

// include/uapi/linux/mount.h; the C library's header clashes with it.
constexpr unsigned kFsopenCloexec = 1;
constexpr unsigned kFsmountCloexec = 1;
constexpr unsigned kFsconfigCreate = 6;

Error refused(int code, std::string_view what) {
  Error error = Error::from_errno(code, what);
  if (code != EPERM) return error;
  return std::move(error).with_code(Errc::kMissingCapability).with_help("CAP_SYS_ADMIN and CAP_SYS_CHROOT are needed");
}

}  // namespace

Result<PrivateRoot> PrivateRoot::create() {
  const UniqueFd context(static_cast<int>(raw("fsopen", SYS_fsopen, "tmpfs", kFsopenCloexec)));
  if (!context) return refused(errno, "make a private file system");
  if (raw("fsconfig", SYS_fsconfig, context.get(), kFsconfigCreate, nullptr, nullptr, 0) != 0) {
    return refused(errno, "make a private file system");
  }
  UniqueFd mount(static_cast<int>(raw("fsmount", SYS_fsmount, context.get(), kFsmountCloexec, 0)));
  if (!mount) return refused(errno, "make a private file system");
  return PrivateRoot(std::move(mount));
}

Result<void> run_with_own_directory(const std::function<Result<void>()>& action) {
  Result<void> done;
  const auto body = [&]() -> Result<void> {
    if (::unshare(CLONE_FS) != 0) return Error::from_errno(errno, "get an own working directory");
    ::umask(0);
    return action();
  };
  try {
    std::thread([&] { done = body(); }).join();  // layers: allow what unshare(2) changed must end with it
  } catch (const std::system_error& error) {
    return Error(Errc::kSystem, fmt::format("start a thread: {}", error.what()));
  }
  return done;
}

Result<void> PrivateRoot::run(const std::function<Result<void>()>& action) const {
  return run_with_own_directory([&]() -> Result<void> {
    if (::fchdir(mount_.get()) != 0 || ::chroot(".") != 0) return refused(errno, "enter a private file system");
    return action();
  });
}

Result<void> make_parent_directories(std::string_view path) {
  for (std::size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1)) {
    const std::string directory(path.substr(0, slash));
    if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST && errno != EISDIR) {
      return Error::from_errno(errno, "make directory " + directory);
    }
  }
  return {};
}

}  // namespace stasis::kernel
