// SPDX-License-Identifier: Apache-2.0
// The table of file kinds.
#pragma once

#include <span>

#include "resource/open_file/open_file.h"

namespace stasis {

// In the order in which they are asked.
std::span<const FileKind> file_kinds();
// The row of a kind by its number in an image; null: there is none.
const FileKind* find_file_kind(ObjType type);

}  // namespace stasis
