// SPDX-License-Identifier: Apache-2.0
// Signal actions in the object hash, on both ways.
#pragma once

#include "resource/checkpoint_context.h"
#include "resource/kinds.h"
#include "resource/restart_context.h"
#include "resource/signal/signal_record.h"

namespace stasis {

struct RestoredSighand : RestoredObject {
  SighandRecord record;
};

// Object = SighandRecord*.
inline Result<void> checkpoint_sighand(void* context, ObjRef ref, void* object) {
  return CheckpointContext::of(context).write_object(ref, kind::kSighand, *static_cast<SighandRecord*>(object));
}

inline Result<void*> restore_sighand(void* context, ObjRef) {
  auto sighand = std::make_unique<RestoredSighand>();
  sighand->record = STASIS_TRY(RestartContext::of(context).image.read<SighandRecord>());
  return static_cast<void*>(static_cast<RestoredObject*>(sighand.release()));
}

inline constexpr ObjOps kSighandOps = {kind::kSighand,       "signal_actions",   nullptr,
                                       RestoredObject::drop, checkpoint_sighand, restore_sighand};

}  // namespace stasis
