// SPDX-License-Identifier: Apache-2.0
#include "engine/pidfile.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <span>
#include <utility>

#include "base/file.h"

namespace stasis {

Result<Pidfile> Pidfile::open(const std::string& path) {
  Pidfile file;
  if (path.empty()) return file;
  file.path_ = path;
  auto made = open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL, 0644);
  if (made) {
    file.created_by_ = ::getpid();
    file.fd_ = std::move(*made);
  } else {
    file.fd_ = STASIS_TRY(open_at(AT_FDCWD, path, O_WRONLY | O_CREAT, 0644));
  }
  return file;
}

Pidfile::~Pidfile() {
  if (fd_ && created_by_ == ::getpid()) ::unlink(path_.c_str());
}

void Pidfile::swap(Pidfile& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(created_by_, other.created_by_);
}

Result<void> Pidfile::write(HostPid pid) {
  if (!fd_) return {};
  if (::ftruncate(fd_.get(), 0) != 0 && errno != EINVAL)
    return Error::from_errno(errno, "pidfile " + path_ + ": write");
  const std::string text = fmt::format("{}\n", pid.value());
  if (const auto done = write_full(fd_.get(), std::as_bytes(std::span(text))); !done) {
    return Error(done.error().code(), fmt::format("pidfile {}: {}", path_, done.error().message()));
  }
  created_by_ = 0;
  fd_.reset();
  return {};
}

}  // namespace stasis
