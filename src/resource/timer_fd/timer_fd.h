// SPDX-License-Identifier: Apache-2.0
// timerfd_create(2): a timer. What remains of its time at the checkpoint remains at the restart; only a timer that was
// set to an absolute time of the wall clock keeps that time.
#pragma once

#include <cstdint>
#include <tuple>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct TimerFdRecord {
  static constexpr RecordType kType = RecordType::kTimerFd;
  static constexpr std::string_view kName = "timerfd";

  std::int32_t clock = 0;           // CLOCK_*
  std::uint32_t settime_flags = 0;  // TFD_TIMER_*
  std::uint64_t expirations = 0;    // not read yet
  std::uint64_t remaining_ns = 0;   // 0: not armed
  std::uint64_t interval_ns = 0;
  std::int64_t wall_time_ns = 0;  // when it expires, if it was set to a time of the wall clock
  std::uint32_t flags = 0;

  bool keeps_wall_time() const;

  static constexpr auto fields() {
    using R = TimerFdRecord;
    return std::tuple{field<1>("clock", &R::clock),
                      field<2>("settime_flags", &R::settime_flags),
                      field<3>("expirations", &R::expirations),
                      field<4>("remaining_ns", &R::remaining_ns),
                      field<5>("interval_ns", &R::interval_ns),
                      field<6>("wall_time_ns", &R::wall_time_ns),
                      field<7>("flags", &R::flags, Show::kOctal)};
  }
};

bool claims_timer_fd(const OpenFile& file, const OpenFileTable& tree);
Result<void> checkpoint_timer_fd(void* context, ObjRef ref, void* object);
Result<void*> restore_timer_fd(void* context, ObjRef ref);

inline constexpr FileKind kTimerFdKind = {
    .ops = {kind::kTimerFd, "timerfd", nullptr, RestoredObject::drop, checkpoint_timer_fd, restore_timer_fd},
    .claims = claims_timer_fd,
    .obstacle = nullptr};

}  // namespace stasis
