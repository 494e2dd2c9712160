// SPDX-License-Identifier: Apache-2.0
// The format's document: tables of record types and their fields, made from the schema.
#pragma once

#include <string>

#include "stasis/image_schema.h"

namespace stasis {

// Markdown: one section per record in the order of its number, nested structs as tables of their own behind it.
std::string document_records(RecordRegistry records);

}  // namespace stasis
