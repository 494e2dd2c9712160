// SPDX-License-Identifier: Apache-2.0
// Open files that their name no longer leads to. A file that is deleted but open travels in the image with its
// contents; one that only lost one of its names is found by another one in the same directory.
//
// All openings of such a file are openings of one object (kNamelessFile, by inode). It is made again without a name, in
// the directory where it was or else in /tmp, and gets its mode and times at the very end, when all its openings exist.
// Of devices only those without a state (/dev/null) are; a device takes CAP_MKNOD, and where devices may be opened.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

enum class FileName {
  kLeadsToIt,
  kDeleted,          // no name is left
  kLinkedElsewhere,  // it has names, but we know none
  kTakenByOther,     // another file is there now, or something is mounted over it
  kUnreachable,      // outside our root, or in a directory that we may not search
};

struct NameFound {
  FileName state = FileName::kLeadsToIt;
  std::string path;  // that leads to it; of a deleted file: that led to it
};

// Does the path that /proc tells still lead to the open file, or another one beside it? Follows no symlink at its end.
NameFound find_name(const OpenFile& file);

// Why a file can't be saved, as far as its name matters.
std::optional<Obstacle> name_obstacle(const OpenFile& file, const OpenFileTable& tree);

struct NamelessFileRecord {
  static constexpr RecordType kType = RecordType::kNamelessFile;
  static constexpr std::string_view kName = "nameless_file";

  std::string path;  // that led to it
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint64_t size = 0;
  std::int64_t atime_ns = 0;
  std::int64_t mtime_ns = 0;
  std::uint64_t device_number = 0;  // of a device file

  static constexpr auto fields() {
    using R = NamelessFileRecord;
    return std::tuple{field<1>("path", &R::path, MaxLength{4096}),
                      field<2>("mode", &R::mode, Show::kOctal),
                      field<3>("uid", &R::uid),
                      field<4>("gid", &R::gid),
                      field<5>("size", &R::size),
                      field<6>("atime_ns", &R::atime_ns),
                      field<7>("mtime_ns", &R::mtime_ns),
                      field<8>("device_number", &R::device_number, Show::kHex)};
  }
};

// Object = OpenInode*.
Result<void> checkpoint_nameless_file(void* context, ObjRef ref, void* object);
Result<void*> restore_nameless_file(void* context, ObjRef ref);

inline constexpr ObjOps kNamelessFileOps = {kind::kNamelessFile,  "nameless_file",          nullptr,
                                            RestoredObject::drop, checkpoint_nameless_file, restore_nameless_file};

// The file made again, open for reading and writing (a directory: for reading). Openings of it are made by
// /proc/self/fd.
struct RestoredNamelessFile : RestoredMapping {
  NamelessFileRecord record;

  Result<void> fill(std::span<const PageRun> runs, std::span<const std::byte> pages) override;
};

}  // namespace stasis
