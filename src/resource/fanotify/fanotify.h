// SPDX-License-Identifier: Apache-2.0
// fanotify(7) groups: marks on files, mounts and file systems.
//
// Events that wait can't be read without taking them away, nor be put back, so a group with unread events is refused.
// So is one that decides on what others do (permission events): they, and Stasis among them, would wait for the answer
// of a program that stands still. A group that was made without CAP_SYS_ADMIN tells nothing of others' processes, and
// is made again without it. A mark on a mount, in a restart with a mount namespace of its own, is on the mount there.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/watched_file/watched_file.h"
#include "stasis/image_schema.h"

namespace stasis {

enum class MarkedObject : std::uint8_t { kFile = 0, kMount = 1, kFileSystem = 2 };
constexpr auto enum_names(MarkedObject) {
  return std::array{EnumName{MarkedObject::kFile, "file"}, EnumName{MarkedObject::kMount, "mount"},
                    EnumName{MarkedObject::kFileSystem, "file_system"}};
}

struct FanotifyMarkRecord {
  MarkedObject object = MarkedObject::kFile;
  std::uint32_t flags = 0;    // FAN_MARK_* that the mark has
  std::uint32_t mask = 0;     // FAN_*
  std::uint32_t ignored = 0;  // FAN_*
  std::string path;           // of a mount or file system: where it is mounted

  static constexpr auto fields() {
    using R = FanotifyMarkRecord;
    return std::tuple{field<1>("object", &R::object), field<2>("flags", &R::flags, Show::kHex),
                      field<3>("mask", &R::mask, Show::kHex), field<4>("ignored", &R::ignored, Show::kHex),
                      field<5>("path", &R::path, MaxLength{4096})};
  }
};

struct FanotifyRecord {
  static constexpr RecordType kType = RecordType::kFanotify;
  static constexpr std::string_view kName = "fanotify";

  std::uint32_t flags = 0;
  std::uint32_t group_flags = 0;  // of fanotify_init(2)
  std::uint32_t event_flags = 0;  // O_*, of the descriptors that come with events
  bool privileged = false;        // made with CAP_SYS_ADMIN
  std::vector<FanotifyMarkRecord> marks;

  static constexpr auto fields() {
    using R = FanotifyRecord;
    return std::tuple{field<1>("flags", &R::flags, Show::kOctal), field<2>("group_flags", &R::group_flags, Show::kHex),
                      field<3>("event_flags", &R::event_flags, Show::kOctal), field<4>("privileged", &R::privileged),
                      field<5>("marks", &R::marks)};
  }
};

// What fdinfo tells of a group: "fanotify flags:10 event-flags:88002" and a line for each mark (see
// Documentation/filesystems/proc.rst).
struct FanotifyMark {
  MarkedObject object = MarkedObject::kFile;
  std::uint32_t flags = 0;
  std::uint32_t ignored = 0;
  std::int32_t mount_id = 0;
  WatchedFile file;  // the mask of every mark; of a file system the device
};
struct FanotifyGroup {
  std::uint32_t flags = 0;
  std::uint32_t event_flags = 0;
  std::vector<FanotifyMark> marks;
};
Result<FanotifyGroup> parse_fanotify_group(const kernel::FdInfo& info);

bool claims_fanotify(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> fanotify_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                          const CheckpointPolicy& policy);
Result<void> checkpoint_fanotify(void* context, ObjRef ref, void* object);
Result<void*> restore_fanotify(void* context, ObjRef ref);

inline constexpr FileKind kFanotifyKind = {
    .ops = {kind::kFanotify, "fanotify", nullptr, RestoredObject::drop, checkpoint_fanotify, restore_fanotify},
    .claims = claims_fanotify,
    .obstacle = fanotify_obstacle};

}  // namespace stasis
