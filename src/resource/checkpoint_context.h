// SPDX-License-Identifier: Apache-2.0
// What the resource kinds get to see of a running checkpoint. Passed as the context of ObjHash::checkpoint_obj.
#pragma once

#include "resource/open_file/open_file.h"
#include "stasis/defer_queue.h"
#include "stasis/image.h"
#include "stasis/objhash.h"
#include "tracee/patience.h"

namespace stasis {

enum class TcpPolicy { kRefuse, kClose, kKeep };
enum class UnixExternalPolicy { kRefuse, kClose, kReconnect };

// The user's choices that kinds must know.
struct CheckpointPolicy {
  TcpPolicy tcp = TcpPolicy::kRefuse;
  UnixExternalPolicy unix_external = UnixExternalPolicy::kRefuse;
};

struct CheckpointContext {
  ImageWriter& image;
  ObjHash& objects;
  DeferQueue& deferred;  // run at the end of the operation, after the tasks run again
  const OpenFileTable& files;
  const CheckpointPolicy& policy;
  const Patience& patience;

  static CheckpointContext& of(void* context) { return *static_cast<CheckpointContext*>(context); }
};

}  // namespace stasis
