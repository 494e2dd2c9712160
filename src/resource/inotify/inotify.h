// SPDX-License-Identifier: Apache-2.0
// inotify(7): watches on files, and the events that nobody has read yet.
//
// Events that wait can't be read without taking them away, nor be put back. A restarted program finds what inotify says
// when events were lost, IN_Q_OVERFLOW; the live one loses nothing. Watches are set after everything else, so that
// nobody sees what the restart itself did to the files.
#pragma once

#include <cstdint>
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

struct InotifyWatchRecord {
  std::int32_t number = 0;  // the watch descriptor
  std::uint32_t mask = 0;   // IN_*
  std::string path;

  static constexpr auto fields() {
    using R = InotifyWatchRecord;
    return std::tuple{field<1>("number", &R::number), field<2>("mask", &R::mask, Show::kHex),
                      field<3>("path", &R::path, MaxLength{4096})};
  }
};

struct InotifyRecord {
  static constexpr RecordType kType = RecordType::kInotify;
  static constexpr std::string_view kName = "inotify";

  std::uint32_t flags = 0;
  bool events_waited = false;
  std::vector<InotifyWatchRecord> watches;

  static constexpr auto fields() {
    using R = InotifyRecord;
    return std::tuple{field<1>("flags", &R::flags, Show::kOctal), field<2>("events_waited", &R::events_waited),
                      field<3>("watches", &R::watches)};
  }
};

// A line "inotify wd:1 ino:a722fc sdev:fe00000 mask:fff ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:..." of
// fdinfo.
struct InotifyWatch : WatchedFile {
  std::int32_t number = 0;
};
Result<std::vector<InotifyWatch>> parse_inotify_watches(const kernel::FdInfo& info);

bool claims_inotify(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> inotify_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                         const CheckpointPolicy& policy);
Result<void> checkpoint_inotify(void* context, ObjRef ref, void* object);
Result<void*> restore_inotify(void* context, ObjRef ref);

inline constexpr FileKind kInotifyKind = {
    .ops = {kind::kInotify, "inotify", nullptr, RestoredObject::drop, checkpoint_inotify, restore_inotify},
    .claims = claims_inotify,
    .obstacle = inotify_obstacle};

}  // namespace stasis
