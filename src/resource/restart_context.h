// SPDX-License-Identifier: Apache-2.0
// What the resource kinds get to see of a running restart. Passed as the context of ObjHash::restore_obj.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "stasis/defer_queue.h"
#include "stasis/image.h"
#include "stasis/objhash.h"
#include "tracee/patience.h"

namespace stasis {

// Base of everything that a restore function hands to the object hash; dropping the hash's reference deletes it.
struct RestoredObject {
  virtual ~RestoredObject() = default;
  static void drop(void* object, LastRef) { delete static_cast<RestoredObject*>(object); }
};

// An open file description made again. Tasks get it by dup from the coordinator's table, which they inherit.
struct RestoredFile : RestoredObject {
  UniqueFd fd;
  // The descriptor (of the coordinator) that becomes number `number` in a task.
  virtual int descriptor_for(int /*number*/) const { return fd.get(); }
};

enum class FilePolicy { kStrict, kRollback, kRelaxed };
enum class SessionPolicy { kForeground, kDetached };

struct RestartPolicy {
  FilePolicy files = FilePolicy::kStrict;
  SessionPolicy session = SessionPolicy::kForeground;
  std::map<int, int> inherit_fds;  // --inherit-fd N=M: the tree's descriptor N becomes the caller's descriptor M
};

struct RestartContext {
  ImageReader& image;
  ObjHash& objects;
  DeferQueue& deferred;  // run when all tasks exist and before any of them runs
  UndoQueue& undo;       // run in reverse if the restart fails; dismissed when it succeeds
  const RestartPolicy& policy;
  const Patience& patience;
  int parking_base = 0;  // descriptors of the coordinator lie at or above: no number of the tree is taken

  static RestartContext& of(void* context) { return *static_cast<RestartContext*>(context); }
  // Moves a descriptor out of the way of the tree's numbers.
  Result<UniqueFd> park(UniqueFd fd) const;
  // Opens with the rights the image grants (see engine/rights.h); what every kind must use for paths from an image.
  Result<UniqueFd> open_path(const std::string& path, int flags) const;
};

}  // namespace stasis
