// SPDX-License-Identifier: Apache-2.0
// pidfds (pidfd_open(2)) of processes of the tree.
//
// A pidfd can be opened only once its process exists, and by then every task has its copy of the coordinator's
// descriptors: so each task that has one opens it itself (RestoredFile::own_call). Two processes that shared one open
// file description have one each afterwards, which nobody can tell but by O_NONBLOCK.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>

#include "base/ids.h"
#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct PidFdRecord {
  static constexpr RecordType kType = RecordType::kPidFd;
  static constexpr std::string_view kName = "pidfd";

  ImagePid pid;  // 0: the process has ended and was waited for
  std::uint32_t flags = 0;

  static constexpr auto fields() {
    return std::tuple{field<1>("pid", &PidFdRecord::pid), field<2>("flags", &PidFdRecord::flags, Show::kOctal)};
  }
};

bool claims_pid_fd(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> pid_fd_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                        const CheckpointPolicy& policy);
Result<void> checkpoint_pid_fd(void* context, ObjRef ref, void* object);
Result<void*> restore_pid_fd(void* context, ObjRef ref);

inline constexpr FileKind kPidFdKind = {
    .ops = {kind::kPidFd, "pidfd", nullptr, RestoredObject::drop, checkpoint_pid_fd, restore_pid_fd},
    .claims = claims_pid_fd,
    .obstacle = pid_fd_obstacle};

}  // namespace stasis
