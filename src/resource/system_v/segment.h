// SPDX-License-Identifier: Apache-2.0
// System V shared memory segments (shmget(2)): what a checkpoint must know of one beyond its contents, and how it is
// made again under its old id and key.
//
// A segment that was deleted while it is attached has no key any more and goes with the last that is attached: it is
// made anew, attached by everybody, and then deleted by a deferred work.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>

#include "base/ids.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct SegmentRecord {
  std::int32_t id = -1;
  std::int32_t key = 0;
  std::uint64_t size = 0;  // as it was asked for; bytes
  std::uint32_t mode = 0;  // permissions
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  bool deleted = false;  // IPC_RMID
  bool locked = false;   // SHM_LOCK

  static constexpr auto fields() {
    using R = SegmentRecord;
    return std::tuple{field<1>("id", &R::id),           field<2>("key", &R::key, Show::kHex),
                      field<3>("size", &R::size),       field<4>("mode", &R::mode, Show::kOctal),
                      field<5>("uid", &R::uid),         field<6>("gid", &R::gid),
                      field<7>("deleted", &R::deleted), field<8>("locked", &R::locked)};
  }
};

// The line of /proc/sysvipc/shm for a segment; nullopt: there is none, or it is malformed.
std::optional<SegmentRecord> parse_segment(std::string_view table, std::int32_t id);
// A segment in the IPC namespace of a process. It is gone: kVanished.
Result<SegmentRecord> look_at_segment(HostPid pid, std::int32_t id);

// A segment made again, or found as it was left, and attached by us.
class RestoredSegment {
 public:
  // `huge_page`: bytes, 0 for usual pages. It is removed again if the restart fails. In use by somebody else: kBusy.
  static Result<RestoredSegment> make(const SegmentRecord& record, std::uint64_t huge_page, RestartContext& context);
  RestoredSegment() = default;
  RestoredSegment(RestoredSegment&& other) noexcept
      : id_(std::exchange(other.id_, -1)), at_(std::exchange(other.at_, nullptr)), size_(other.size_) {}
  RestoredSegment& operator=(RestoredSegment&& other) noexcept;
  ~RestoredSegment();

  int id() const { return id_; }
  // Its memory, whole pages.
  std::span<std::byte> memory() const { return {at_, size_}; }

 private:
  int id_ = -1;
  std::byte* at_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace stasis
