// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/open_file.h"

#include <algorithm>

#include "resource/checkpoint_context.h"
#include "resource/open_file/common_obstacle.h"
#include "resource/open_file/mapped_files.h"
#include "work/side_by_side.h"

namespace stasis {

int OpenFile::lowest_number() const { return std::ranges::min_element(holders, {}, &FileHolder::fd)->fd; }

Obstacle OpenFile::obstacle(Errc code, std::string why, std::string help) const {
  const OpenFile* holder = this;
  std::string object = link;
  while (holder->carrier != nullptr) {
    holder = holder->carrier;
    object += " in flight in " + holder->link;
  }
  return {.code = code,
          .pid = holder->pid(),
          .fd = holder->fd(),
          .object = std::move(object),
          .why = std::move(why),
          .help = std::move(help)};
}

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

OpenFile* OpenFileTable::find_socket(std::uint64_t inode) const {
  if (inode == 0) return nullptr;
  const auto found = std::ranges::find_if(files, [&](const auto& file) {
    return file->stat.st_ino == inode && S_ISSOCK(file->stat.st_mode) && !file->is_path_only();
  });
  return found == files.end() ? nullptr : found->get();
}

namespace {

std::optional<Obstacle> find_obstacle(const OpenFile& file, const OpenFileTable& table,
                                      const CheckpointPolicy& policy) {
  const FileKind* const kind = find_file_kind(file, table);
  if (kind == nullptr) return unknown_kind(file);
  auto found = common_obstacle(file, *kind, table);
  if (found || kind->obstacle == nullptr) return found;
  return kind->obstacle(file, table, policy);
}

}  // namespace

Obstacles collect_obstacles(const OpenFileTable& table, const CheckpointPolicy& policy) {
  // Files with a path are many where there are many files, and each is judged
  // by itself.
  const auto is_path = [](const OpenFile& file) { return S_ISREG(file.stat.st_mode) || S_ISDIR(file.stat.st_mode); };
  std::vector<std::optional<Obstacle>> all(table.files.size());
  const auto judge = [&](std::size_t i, std::size_t) -> Result<void> {
    if (is_path(*table.files[i])) all[i] = find_obstacle(*table.files[i], table, policy);
    return {};
  };
  if (!side_by_side({.count = all.size(), .worth_a_thread = 64}, judge)) {
    for (std::size_t i = 0; i < all.size(); ++i) (void)judge(i, 0);  // no threads to be had
  }
  Obstacles obstacles;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!is_path(*table.files[i])) all[i] = find_obstacle(*table.files[i], table, policy);
    if (all[i]) obstacles.push_back(*std::move(all[i]));
  }
  for (const auto& inode : table.inodes) {
    if (!inode->mapped) continue;
    if (auto found = mapped_file_obstacle(*inode, table)) obstacles.push_back(*std::move(found));
  }
  return obstacles;
}

}  // namespace stasis
