// SPDX-License-Identifier: Apache-2.0
// Finding the file of an image's parent. What an image says about it is hostile: only a regular file of the same owner
// is ever opened, so that nobody gets at the pages of somebody else's image through root.
#pragma once

#include <sys/stat.h>

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {

struct ParentFile {
  UniqueFd fd;
  struct ::stat stat{};
  std::string path;
};

// Where a parent may be, as its child recorded it: there (relative to the child's directory), or beside the child.
std::vector<std::string> parent_paths(const std::string& recorded, const std::string& directory);

// Errors: kParentImage.
Result<ParentFile> open_parent_file(const std::string& path, uid_t owner);

// The directory of a file, for parent_paths(); "" for one in the working directory.
std::string directory_of(const std::string& path);

}  // namespace stasis
