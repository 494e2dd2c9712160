// SPDX-License-Identifier: Apache-2.0
// eventfd(2): a counter.
#pragma once

#include <cstdint>
#include <tuple>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct EventFdRecord {
  static constexpr RecordType kType = RecordType::kEventFd;
  static constexpr std::string_view kName = "eventfd";

  std::uint64_t count = 0;
  bool semaphore = false;
  std::uint32_t flags = 0;

  static constexpr auto fields() {
    using R = EventFdRecord;
    return std::tuple{field<1>("count", &R::count), field<2>("semaphore", &R::semaphore),
                      field<3>("flags", &R::flags, Show::kOctal)};
  }
};

bool claims_event_fd(const OpenFile& file, const OpenFileTable& tree);
Result<void> checkpoint_event_fd(void* context, ObjRef ref, void* object);
Result<void*> restore_event_fd(void* context, ObjRef ref);

// Is it a semaphore? For kernels whose fdinfo does not tell (before 6.5): counts up and down again, which leaves the
// count as it was. REQUIRES: nobody else uses it meanwhile.
Result<bool> probe_semaphore(int fd, std::uint64_t count);

inline constexpr FileKind kEventFdKind = {
    .ops = {kind::kEventFd, "eventfd", nullptr, RestoredObject::drop, checkpoint_event_fd, restore_event_fd},
    .claims = claims_event_fd,
    .obstacle = nullptr};

}  // namespace stasis
