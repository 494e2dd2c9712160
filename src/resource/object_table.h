// SPDX-License-Identifier: Apache-2.0
// All kinds of shared object, and all records of this layer.
#pragma once

#include <span>

#include "stasis/image_schema.h"
#include "stasis/objhash.h"

namespace stasis {

// The rows for ObjHash. A checkpoint's hash borrows what the checkpoint owns: dropping the reference to an open file
// closes our duplicate of it, the others need nothing. A restart's owns the RestoredObjects in it.
enum class ObjectUse { kCheckpoint, kRestart };
std::span<const ObjOps> object_table(ObjectUse use);
// Records for readers and views: those of this layer; the engine adds its own.
RecordRegistry resource_records();
// Names of the kinds, for views.
std::span<const EnumName<ObjType>> object_names();

}  // namespace stasis
