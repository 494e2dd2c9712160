// SPDX-License-Identifier: Apache-2.0
// What clone(2) calls the fs of a process: root directory, working directory, umask.
//
// A root of its own (chroot) is a directory like any other to us: all paths in an image start at the usual root. A
// restart takes CAP_SYS_CHROOT for it, which a user has in the namespaces of his restart.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "image/record_types.h"
#include "kernel/proc_dir.h"
#include "resource/kinds.h"
#include "resource/obstacle.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

struct FsRecord {
  static constexpr RecordType kType = RecordType::kFs;
  static constexpr std::string_view kName = "fs";

  std::string root;
  std::string working_directory;
  std::uint32_t umask = 0;

  static constexpr auto fields() {
    using R = FsRecord;
    return std::tuple{field<1>("root", &R::root, MaxLength{4096}),
                      field<2>("working_directory", &R::working_directory, MaxLength{4096}),
                      field<3>("umask", &R::umask, Show::kOctal)};
  }
};

// The fs of a process as a checkpoint sees it. Its address is its key in the object hash: tasks that share one (kcmp
// KCMP_FS) must be given the same.
struct FsState {
  HostPid pid;
  FsRecord record;
  std::optional<Obstacle> obstacle;  // why it can't be saved
};
Result<FsState> gather_fs(const kernel::ProcDir& proc, const kernel::ProcStatus& status);

// Object = FsState*.
Result<void> checkpoint_fs(void* context, ObjRef ref, void* object);
Result<void*> restore_fs(void* context, ObjRef ref);

inline constexpr ObjOps kFsOps = {kind::kFs, "fs", nullptr, RestoredObject::drop, checkpoint_fs, restore_fs};

struct RestoredFs : RestoredObject {
  FsRecord record;
  UniqueFd root;               // parked; empty: the usual one
  UniqueFd working_directory;  // parked

  // Adds the calls that give it to a task. REQUIRES: the task still has the coordinator's parked descriptors.
  void install(Batch& batch, BatchChecks& checks) const;
};

}  // namespace stasis
