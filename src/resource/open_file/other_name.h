// SPDX-License-Identifier: Apache-2.0
// Files whose name was deleted and that have another one in the same directory.
//
// It is no rarity: sem_open(3) makes a semaphore under a temporary name, links it to the right one, and deletes the
// first, which is the one that /proc shows for ever after.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/proc_maps.h"

namespace stasis {

// The directory part of an absolute path, "/" at least.
std::string directory_of(std::string_view path);
// A name (absolute) of the inode in a directory; nullopt if there is none or the directory can't be read.
std::optional<std::string> other_name(const std::string& directory, dev_t device, ino_t inode);
// Shared mappings of deleted files get the path that leads to them, where there is one, and count as not deleted.
void find_other_names(std::vector<kernel::Vma>& vmas);

}  // namespace stasis
