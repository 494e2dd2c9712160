// SPDX-License-Identifier: Apache-2.0
#include "image/parent_file.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "base/file.h"

namespace stasis {

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

std::vector<std::string> parent_paths(const std::string& recorded, const std::string& directory) {
  std::string base = directory;
  if (!base.empty() && base.back() != '/') base += '/';
  const std::string beside = base + recorded.substr(directory_of(recorded).size());
  std::string there = recorded.starts_with('/') ? recorded : base + recorded;
  if (there == beside) return {beside};
  return {std::move(there), beside};
}

Result<ParentFile> open_parent_file(const std::string& path, uid_t owner) {
  auto fd = open_at(AT_FDCWD, path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
  if (!fd) return std::move(fd).error().with_code(Errc::kParentImage).note("parent image");
  ParentFile file{.fd = std::move(*fd), .path = path};
  if (::fstat(file.fd.get(), &file.stat) != 0) return Error::from_errno(errno, "stat " + path);
  if (!S_ISREG(file.stat.st_mode)) {
    return Error(Errc::kParentImage, fmt::format("parent image {} is no regular file", path));
  }
  if (file.stat.st_uid != owner) {
    return Error(Errc::kParentImage, fmt::format("parent image {} belongs to user {}, the image itself to user {}",
                                                 path, file.stat.st_uid, owner));
  }
  const bool others_write = (file.stat.st_mode & (S_IWGRP | S_IWOTH)) != 0;
  if (owner == 0 && others_write) {
    return Error(Errc::kParentImage, fmt::format("others may write parent image {} of root's", path))
        .with_help("chmod go-w it if you trust what it holds");
  }
  return file;
}

}  // namespace stasis
