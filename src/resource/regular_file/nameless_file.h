// SPDX-License-Identifier: Apache-2.0
// Open files that their name no longer leads to.
#pragma once

#include <optional>

#include "resource/open_file/open_file.h"

namespace stasis {

enum class FileName {
  kLeadsToIt,
  kDeleted,       // no name is left, or none that we know
  kTakenByOther,  // another file is there now, or something is mounted over it
  kUnreachable,   // outside our root, or in a directory that we may not search
};

// Does the path that /proc tells still lead to the open file? Looks at the path, follows no symlink at its end.
FileName check_name(const OpenFile& file);

// Why a file without a good name can't be saved.
std::optional<Obstacle> nameless_file_obstacle(const OpenFile& file);

}  // namespace stasis
