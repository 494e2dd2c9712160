// SPDX-License-Identifier: Apache-2.0
// All kinds of shared object, and all records of this layer.
#pragma once

#include <span>

#include "stasis/image_schema.h"
#include "stasis/objhash.h"

namespace stasis {

// The rows for ObjHash. A checkpoint's hash borrows what the checkpoint owns (its drop does nothing); a restart's owns
// the RestoredObjects in it.
enum class ObjectUse { kCheckpoint, kRestart };
std::span<const ObjOps> object_table(ObjectUse use);
// Records for readers and views: those of this layer; the engine adds its own.
RecordRegistry resource_records();

}  // namespace stasis
