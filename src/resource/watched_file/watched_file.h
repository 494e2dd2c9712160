// SPDX-License-Identifier: Apache-2.0
// A file that somebody watches (inotify, fanotify), of which the kernel tells the inode and a file handle, and no path.
// Root opens the handle; others look for the inode where programs watch: at and beside what the tree has open, and
// below its working directories.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "resource/open_file/open_file.h"

namespace stasis {

struct WatchedFile {
  FileId id;
  std::uint32_t mask = 0;  // IN_* and FAN_* of the same meaning have the same numbers
  std::int32_t handle_type = 0;
  std::vector<std::byte> handle;  // empty: the file system has none
};

// Takes a word "key:value" of a line of fdinfo, if it is one that describes the file. False: it is malformed.
bool parse_watched_file(std::string_view key, std::string_view value, WatchedFile& file);

// Paths that lead to the watched files; empty where none was found.
std::vector<std::string> find_watched_paths(const OpenFile& watcher, std::span<const WatchedFile> watches,
                                            const OpenFileTable& tree);

}  // namespace stasis
