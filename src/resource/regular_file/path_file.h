// SPDX-License-Identifier: Apache-2.0
// Files that were opened by a path and can be opened by it again: regular files, directories, devices without a state
// (/dev/null), and whatever was opened with O_PATH.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/locks/file_lock.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct PathFileRecord {
  static constexpr RecordType kType = RecordType::kPathFile;
  static constexpr std::string_view kName = "path_file";

  std::string path;
  std::uint32_t flags = 0;  // O_*
  std::int64_t offset = 0;  // of a directory: the file system's cookie
  std::uint32_t mode = 0;   // type and permissions
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t device_number = 0;  // of a device file
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t birth_ns = 0;          // 0: the file system does not tell
  bool tree_writes = false;           // the tree could write the file, by this or another opening
  ObjRef nameless;                    // set: no path leads to the file, it is this object
  std::vector<FileLockRecord> locks;  // flock(2) and open-file-description locks
  bool synthetic = false;             // in /proc, /sys and the like: size and times mean nothing

  static constexpr auto fields() {
    using R = PathFileRecord;
    return std::tuple{field<1>("path", &R::path, MaxLength{4096}),
                      field<2>("flags", &R::flags, Show::kOctal),
                      field<3>("offset", &R::offset),
                      field<4>("mode", &R::mode, Show::kOctal),
                      field<5>("device", &R::device, Show::kHex),
                      field<6>("inode", &R::inode),
                      field<7>("device_number", &R::device_number, Show::kHex),
                      field<8>("size", &R::size),
                      field<9>("mtime_ns", &R::mtime_ns),
                      field<10>("birth_ns", &R::birth_ns),
                      field<11>("tree_writes", &R::tree_writes),
                      field<12>("synthetic", &R::synthetic),
                      field<13>("nameless", &R::nameless, Null::kAllowed),
                      field<14>("locks", &R::locks)};
  }
};

// What is found under the path at restart.
struct FoundFile {
  std::uint32_t mode = 0;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t device_number = 0;
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t birth_ns = 0;

  static Result<FoundFile> look(int fd);
};

enum class FileVerdict { kTakeAsIs, kTruncate };

// May the program go on with this file, and if it has grown: what is to be done about it? Errors: kFileChanged, naming
// the policy that would take it.
Result<FileVerdict> judge_file(const PathFileRecord& record, const FoundFile& found, FilePolicy policy);

bool claims_path_file(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> path_file_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                           const CheckpointPolicy& policy);
Result<void> checkpoint_path_file(void* context, ObjRef ref, void* object);
Result<void*> restore_path_file(void* context, ObjRef ref);

inline constexpr FileKind kPathFileKind = {
    .ops = {kind::kPathFile, "path_file", nullptr, RestoredObject::drop, checkpoint_path_file, restore_path_file},
    .claims = claims_path_file,
    .obstacle = path_file_obstacle,
    .saves_locks = true};

}  // namespace stasis
