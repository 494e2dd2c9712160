// SPDX-License-Identifier: Apache-2.0
// epoll(7): a set of files to be watched.
//
// An entry is known by its file and by the number under which the file was added, and that number may be closed by now,
// or lead to another file. The file itself lives as long as anybody has it, so it is looked for in the whole tree. At
// the restart the set is filled by a deferred work, when all files exist: so sets may watch each other and themselves
// be watched. Each file is added under its old number, by a thread with a descriptor table of its own.
//
// What can't be known is which edge-triggered events were already taken: after a restart a file that is ready is
// reported once more, as epoll(7) allows at any time.
#pragma once

#include <cstdint>
#include <functional>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct EpollEntryRecord {
  std::int32_t number = 0;  // under which the file was added
  std::uint32_t events = 0;
  std::uint64_t data = 0;
  ObjRef file;
  std::uint16_t kind = 0;  // of the file's object

  static constexpr auto fields() {
    using R = EpollEntryRecord;
    return std::tuple{field<1>("number", &R::number), field<2>("events", &R::events, Show::kHex),
                      field<3>("data", &R::data, Show::kHex), field<4>("file", &R::file), field<5>("kind", &R::kind)};
  }
};

struct EpollRecord {
  static constexpr RecordType kType = RecordType::kEpoll;
  static constexpr std::string_view kName = "epoll";

  std::uint32_t flags = 0;
  std::vector<EpollEntryRecord> entries;

  static constexpr auto fields() {
    return std::tuple{field<1>("flags", &EpollRecord::flags, Show::kOctal), field<2>("entries", &EpollRecord::entries)};
  }
};

// A line "tfd: 5 events: 19 data: 5 pos:0 ino:61af sdev:7" of fdinfo.
struct EpollTarget {
  std::int32_t number = 0;
  std::uint32_t events = 0;
  std::uint64_t data = 0;
  std::uint64_t inode = 0;
};
Result<std::vector<EpollTarget>> parse_epoll_targets(const kernel::FdInfo& info);

// Is that descriptor the file of the set's entry? (kcmp)
using IsEpollTarget = std::function<Result<bool>(const FileHolder& candidate, const FileHolder& epoll,
                                                 const EpollTarget& target, std::uint32_t offset)>;
// The file of each entry; null for one that nobody in the tree has.
Result<std::vector<OpenFile*>> find_epoll_files(const OpenFile& epoll, std::span<const EpollTarget> targets,
                                                const OpenFileTable& tree, const IsEpollTarget& is_target);

bool claims_epoll(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> epoll_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy& policy);
Result<void> checkpoint_epoll(void* context, ObjRef ref, void* object);
Result<void*> restore_epoll(void* context, ObjRef ref);

inline constexpr FileKind kEpollKind = {
    .ops = {kind::kEpoll, "epoll", nullptr, RestoredObject::drop, checkpoint_epoll, restore_epoll},
    .claims = claims_epoll,
    .obstacle = epoll_obstacle};

}  // namespace stasis
