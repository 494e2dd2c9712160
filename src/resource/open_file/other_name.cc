// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/other_name.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <memory>

#include "resource/open_file/mapped_files.h"

namespace stasis {
namespace {

// Memory that never had a name looks like a deleted file.
bool had_a_name(const kernel::Vma& vma) {
  return vma.deleted && vma.path.starts_with('/') && !vma.path.starts_with("/[") &&
         !memory_origin(vma.path + " (deleted)");
}

}  // namespace

std::string directory_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == 0 || slash == std::string_view::npos ? "/" : std::string(path.substr(0, slash));
}

std::optional<std::string> other_name(const std::string& directory, dev_t device, ino_t inode) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(directory.c_str()),
                                                [](DIR* d) { return d ? ::closedir(d) : 0; });
  if (!dir) return std::nullopt;
  while (const dirent* entry = ::readdir(dir.get())) {
    if (entry->d_ino != inode) continue;
    struct ::stat found{};
    if (::fstatat(::dirfd(dir.get()), entry->d_name, &found, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (found.st_dev != device || found.st_ino != inode) continue;
    return (directory == "/" ? "" : directory) + "/" + entry->d_name;
  }
  return std::nullopt;
}

void find_other_names(std::vector<kernel::Vma>& vmas) {
  for (kernel::Vma& vma : vmas) {
    if (!vma.shared || !had_a_name(vma)) continue;
    auto name = other_name(directory_of(vma.path), makedev(vma.dev_major, vma.dev_minor), vma.inode);
    if (!name) continue;
    vma.path = *std::move(name);
    vma.deleted = false;
  }
}

}  // namespace stasis
