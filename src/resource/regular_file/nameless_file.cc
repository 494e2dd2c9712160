// SPDX-License-Identifier: Apache-2.0
#include "resource/regular_file/nameless_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <string_view>

namespace stasis {
namespace {
constexpr std::string_view kDeletedSuffix = " (deleted)";
constexpr std::string_view kUnreachablePrefix = "(unreachable)";
}  // namespace

FileName check_name(const OpenFile& file) {
  if (!file.link.starts_with('/')) {
    return file.link.starts_with(kUnreachablePrefix) ? FileName::kUnreachable : FileName::kDeleted;
  }
  struct ::stat named{};
  const bool found = ::fstatat(AT_FDCWD, file.link.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0;
  const int why = errno;
  if (found && named.st_dev == file.stat.st_dev && named.st_ino == file.stat.st_ino) return FileName::kLeadsToIt;
  if (file.stat.st_nlink == 0 || file.link.ends_with(kDeletedSuffix)) return FileName::kDeleted;
  if (!found && why == EACCES) return FileName::kUnreachable;
  return FileName::kTakenByOther;
}

std::optional<Obstacle> nameless_file_obstacle(const OpenFile& file) {
  switch (check_name(file)) {
    case FileName::kLeadsToIt:
      return std::nullopt;
    case FileName::kDeleted:
      return file.obstacle(Errc::kUnsupportedObject, "the file was deleted while it is open",
                           "a file that keeps its name can be saved");
    case FileName::kTakenByOther:
      return file.obstacle(Errc::kUnsupportedObject, "its path now leads to another file, or something hides it");
    case FileName::kUnreachable:
      return file.obstacle(Errc::kUnsupportedObject, "its path can't be reached from here",
                           "root can reach every directory; a file outside the root directory nobody can");
  }
  return std::nullopt;
}

}  // namespace stasis
