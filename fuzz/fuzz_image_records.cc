// SPDX-License-Identifier: Apache-2.0
// Any bytes as the payload of every kind of record there is: the reader's checks of fields, and both views.
#include <cstdint>
#include <span>
#include <string>

#include "image/format.h"
#include "image/sample_image.h"
#include "image/view.h"
#include "resource/object_table.h"

namespace {

using namespace stasis;
constexpr auto kSamples = record_registry<sample::LeafRecord, sample::AllRecord, sample::NoteRecord>();

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto payload = std::as_bytes(std::span(data, size));
  std::size_t length = 0;
  for (const RecordRegistry registry : {framing_records(), resource_records(), RecordRegistry(kSamples)}) {
    for (const RecordInfo& info : registry) length += view_fields_text(info, payload).size();
  }
  // Keeps the views from being optimised away.
  return length == ~std::size_t{0} ? 1 : 0;
}
