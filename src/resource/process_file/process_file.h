// SPDX-License-Identifier: Apache-2.0
// A file in /proc of a process of the tree (/proc/self/maps, a directory /proc/123/fd): opened again by the task that
// had it, once all processes exist. Files of processes outside are refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "base/ids.h"
#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct ProcessFileRecord {
  static constexpr RecordType kType = RecordType::kProcessFile;
  static constexpr std::string_view kName = "process_file";

  std::string path;  // with the pid of the tree's own pid namespace
  std::uint32_t flags = 0;
  std::int64_t offset = 0;

  static constexpr auto fields() {
    using R = ProcessFileRecord;
    return std::tuple{field<1>("path", &R::path, MaxLength{4096}), field<2>("flags", &R::flags, Show::kOctal),
                      field<3>("offset", &R::offset)};
  }
};

// "/proc/12/task/13/stat" is {12, 13, "stat"}; what follows the process's directory must be a plain name, or one in its
// net or attr. Nothing for any other path.
struct ProcessFileName {
  ImagePid pid;
  ImagePid thread;  // 0: not in a thread's directory
  std::string_view name;
};
std::optional<ProcessFileName> parse_process_file(std::string_view path);

bool claims_process_file(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> process_file_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                              const CheckpointPolicy& policy);
Result<void> checkpoint_process_file(void* context, ObjRef ref, void* object);
Result<void*> restore_process_file(void* context, ObjRef ref);

inline constexpr FileKind kProcessFileKind = {.ops = {kind::kProcessFile, "process_file", nullptr, RestoredObject::drop,
                                                      checkpoint_process_file, restore_process_file},
                                              .claims = claims_process_file,
                                              .obstacle = process_file_obstacle};

}  // namespace stasis
