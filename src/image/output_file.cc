// SPDX-License-Identifier: Apache-2.0
#include "image/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/file.h"

namespace stasis {
namespace {

struct PathParts {
  std::string directory;
  std::string name;
};

Result<PathParts> split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  PathParts parts{slash == std::string::npos ? "." : path.substr(0, slash + 1),
                  slash == std::string::npos ? path : path.substr(slash + 1)};
  if (parts.name.empty() || parts.name == "." || parts.name == ".." || path.find('\0') != std::string::npos) {
    return Error(Errc::kInvalidArgument, "'" + path + "' does not name a file");
  }
  return parts;
}

// A directory that may be written but not read can still take a file; it just can't be synced.
Result<UniqueFd> open_directory(const std::string& path) {
  auto directory = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (!directory && directory.error().sys_errno() == EACCES) return open_at(AT_FDCWD, path, O_PATH | O_DIRECTORY);
  return directory;
}

// Kept short, so that a NAME_MAX long target still has room.
std::string staging_name(const std::string& name) {
  std::uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) random = static_cast<std::uint64_t>(::getpid());
  return fmt::format(".{}.{:016x}.part", name.substr(0, 200), random);
}

std::string kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

OutputFile::OutputFile(OutputFile&& other) noexcept
    : directory_(std::move(other.directory_)),
      fd_(std::move(other.fd_)),
      path_(std::move(other.path_)),
      name_(std::move(other.name_)),
      staging_(std::exchange(other.staging_, {})),
      existing_(other.existing_) {}

Result<OutputFile> OutputFile::create(const std::string& path, Staging staging, Existing existing) {
  PathParts parts = STASIS_TRY(split(path));
  UniqueFd directory = STASIS_TRY(open_directory(parts.directory));
  OutputFile file(std::move(directory), path, std::move(parts.name), existing);
  STASIS_TRY(file.check_target());
  // The name is given through /proc/self/fd, so without /proc there must be one from the start.
  const bool can_link_later = ::access("/proc/self/fd", X_OK) == 0;
  if (staging == Staging::kNamed || !can_link_later || !file.open_unnamed()) STASIS_TRY(file.open_named());
  // umask may have taken bits off.
  if (::fchmod(file.fd(), 0600) != 0) return Error::from_errno(errno, "chmod " + path);
  return file;
}

Result<void> OutputFile::open_unnamed() {
  fd_ = STASIS_TRY(open_at(directory_.get(), ".", O_TMPFILE | O_RDWR, 0600));
  return {};
}

Result<void> OutputFile::open_named() {
  for (int attempt = 0;; ++attempt) {
    const std::string name = staging_name(name_);
    auto fd = open_at(directory_.get(), name, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR, 0600);
    if (fd) {
      fd_ = std::move(*fd);
      staging_ = name;
      return {};
    }
    if (fd.error().sys_errno() != EEXIST || attempt == 16) return std::move(fd).error().note(path_);
  }
}

std::string OutputFile::staging_path() const {
  if (staging_.empty()) return {};
  return path_.substr(0, path_.size() - name_.size()) + staging_;
}

Result<void> OutputFile::check_target() const {
  struct stat info{};
  if (::fstatat(directory_.get(), name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return {};
    return Error::from_errno(errno, "stat " + path_);
  }
  if (!S_ISREG(info.st_mode)) {
    return Error(Errc::kOutputExists, path_ + " is " + kind_of(info.st_mode) + ", only a regular file can be replaced")
        .with_help("name another file, or write to '-' and redirect");
  }
  if (existing_ == Existing::kRefuse) return Error(Errc::kOutputExists, path_ + " exists already");
  return {};
}

Result<void> OutputFile::link_unnamed() {
  const std::string self = fmt::format("/proc/self/fd/{}", fd_.get());
  if (::linkat(AT_FDCWD, self.c_str(), directory_.get(), name_.c_str(), AT_SYMLINK_FOLLOW) == 0) return {};
  if (errno != EEXIST) return Error::from_errno(errno, "link " + path_);
  if (existing_ == Existing::kRefuse) return Error(Errc::kOutputExists, path_ + " exists already");
  // linkat(2) can't replace: a name of our own first, then rename.
  for (int attempt = 0; attempt <= 16; ++attempt) {
    const std::string name = staging_name(name_);
    if (::linkat(AT_FDCWD, self.c_str(), directory_.get(), name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      staging_ = name;
      return rename_named();
    }
    if (errno != EEXIST) break;
  }
  return Error::from_errno(errno, "link " + path_);
}

Result<void> OutputFile::rename_named() {
  const int dir = directory_.get();
  if (existing_ == Existing::kRefuse) {
    // A link fails where a rename would replace; the second name goes with it.
    if (::linkat(dir, staging_.c_str(), dir, name_.c_str(), 0) != 0) {
      if (errno == EEXIST) return Error(Errc::kOutputExists, path_ + " exists already");
      // File systems without hard links.
      if (::renameat2(dir, staging_.c_str(), dir, name_.c_str(), RENAME_NOREPLACE) != 0) {
        return Error::from_errno(errno, "rename " + path_);
      }
      staging_.clear();
      return {};
    }
    ::unlinkat(dir, staging_.c_str(), 0);
  } else {
    STASIS_TRY(check_target());
    if (::renameat(dir, staging_.c_str(), dir, name_.c_str()) != 0) return Error::from_errno(errno, "rename " + path_);
  }
  staging_.clear();
  return {};
}

Result<void> OutputFile::sync_directory() const {
  if (::fsync(directory_.get()) == 0) return {};
  // Opened by O_PATH: sync the whole file system instead.
  if (errno == EBADF && ::syncfs(fd_.get()) == 0) return {};
  return Error::from_errno(errno, "sync the directory of " + path_);
}

Result<void> OutputFile::publish(Durability durability) {
  if (durability == Durability::kDurable && ::fsync(fd_.get()) != 0) return Error::from_errno(errno, "sync " + path_);
  STASIS_TRY(check_target());
  if (staging_.empty()) {
    STASIS_TRY(link_unnamed());
  } else {
    STASIS_TRY(rename_named());
  }
  if (durability == Durability::kDurable) STASIS_TRY(sync_directory());
  return {};
}

void OutputFile::discard() {
  if (!staging_.empty() && directory_) ::unlinkat(directory_.get(), staging_.c_str(), 0);
  staging_.clear();
  fd_.reset();
}

}  // namespace stasis
