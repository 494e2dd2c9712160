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
// Pipes to the outside at other descriptors than 0, 1 and 2: refused, or saved as something that restart must be told
// where to bind (--inherit-fd).
enum class ExternalPipePolicy { kRefuse, kBindAtRestart };

// The user's choices that kinds must know.
struct CheckpointPolicy {
  TcpPolicy tcp = TcpPolicy::kRefuse;
  UnixExternalPolicy unix_external = UnixExternalPolicy::kRefuse;
  ExternalPipePolicy external_pipes = ExternalPipePolicy::kRefuse;
};

struct CheckpointContext {
  ImageWriter& image;
  ObjHash& objects;
  DeferQueue& deferred;  // run at the end of the operation, after the tasks run again
  DeferQueue& farewell;  // run right before the tasks are killed, if they are; while they live on it is not run
  DeferQueue& contents;  // run when the structure is written, before the tasks run: contents that travel in chunks
  const OpenFileTable& files;
  const CheckpointPolicy& policy;
  const Patience& patience;

  static CheckpointContext& of(void* context) { return *static_cast<CheckpointContext*>(context); }

  // Header and record of a shared object. What the record refers to must have been written before.
  template <SchemaRecord T>
  Result<void> write_object(ObjRef ref, ObjType type, const T& record) {
    STASIS_TRY(image.begin_object(ref, type));
    return image.write(record);
  }
};

}  // namespace stasis
