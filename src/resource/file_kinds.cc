// SPDX-License-Identifier: Apache-2.0
#include "resource/file_kinds.h"

#include <algorithm>

#include "resource/file_kind_rows.h"

namespace stasis {

std::span<const FileKind> file_kinds() { return kFileKinds; }

const FileKind* find_file_kind(ObjType type) {
  const auto found = std::ranges::find(kFileKinds, type, [](const FileKind& kind) { return kind.ops.type; });
  return found == kFileKinds.end() ? nullptr : &*found;
}

const FileKind* find_file_kind(const OpenFile& file, const OpenFileTable& tree) {
  const auto found = std::ranges::find_if(kFileKinds, [&](const FileKind& kind) { return kind.claims(file, tree); });
  return found == kFileKinds.end() ? nullptr : &*found;
}

}  // namespace stasis
