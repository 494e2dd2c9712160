// SPDX-License-Identifier: Apache-2.0
// signalfd(2): a mask; the signals themselves are pending in their thread or process.
#pragma once

#include <cstdint>
#include <tuple>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct SignalFdRecord {
  static constexpr RecordType kType = RecordType::kSignalFd;
  static constexpr std::string_view kName = "signalfd";

  std::uint64_t mask = 0;  // bit n - 1: signal n
  std::uint32_t flags = 0;

  static constexpr auto fields() {
    using R = SignalFdRecord;
    return std::tuple{field<1>("mask", &R::mask, Show::kHex), field<2>("flags", &R::flags, Show::kOctal)};
  }
};

bool claims_signal_fd(const OpenFile& file, const OpenFileTable& tree);
Result<void> checkpoint_signal_fd(void* context, ObjRef ref, void* object);
Result<void*> restore_signal_fd(void* context, ObjRef ref);

inline constexpr FileKind kSignalFdKind = {
    .ops = {kind::kSignalFd, "signalfd", nullptr, RestoredObject::drop, checkpoint_signal_fd, restore_signal_fd},
    .claims = claims_signal_fd,
    .obstacle = nullptr};

}  // namespace stasis
