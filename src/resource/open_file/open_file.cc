// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/open_file.h"

#include <algorithm>

#include "resource/checkpoint_context.h"
#include "resource/open_file/common_obstacle.h"
#include "resource/open_file/mapped_files.h"

namespace stasis {

int OpenFile::lowest_number() const { return std::ranges::min_element(holders, {}, &FileHolder::fd)->fd; }

bool OpenInode::has_reader() const {
  return std::ranges::any_of(files, [](const OpenFile* file) { return file->reads(); });
}

bool OpenInode::has_writer() const {
  return std::ranges::any_of(files, [](const OpenFile* file) { return file->writes(); });
}

bool OpenFileTable::tree_writes(const OpenFile& file) const {
  return file.inode->has_writer() || mapped_writable.contains(file.inode->id);
}

OpenInode* OpenFileTable::find_mapped(HostPid process, std::uint64_t start) const {
  const auto found = mappings.find({process, start});
  return found == mappings.end() ? nullptr : found->second;
}

Obstacles collect_obstacles(const OpenFileTable& table, const CheckpointPolicy& policy) {
  Obstacles obstacles;
  for (const auto& file : table.files) {
    const FileKind* const kind = find_file_kind(*file, table);
    std::optional<Obstacle> found;
    if (kind == nullptr) {
      found = unknown_kind(*file);
    } else if (found = common_obstacle(*file, *kind); !found && kind->obstacle != nullptr) {
      found = kind->obstacle(*file, table, policy);
    }
    if (found) obstacles.push_back(*std::move(found));
  }
  for (const auto& inode : table.inodes) {
    if (!inode->mapped) continue;
    if (auto found = mapped_file_obstacle(*inode, table)) obstacles.push_back(*std::move(found));
  }
  return obstacles;
}

}  // namespace stasis
