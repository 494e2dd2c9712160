// SPDX-License-Identifier: Apache-2.0
// Memory that is a file without a path (kSharedMemory, by inode): what memfd_create(2) makes, shared anonymous memory,
// System V segments; and the openings of a memfd (kMemFd).
//
// Contents are saved once, whoever maps them. Seals come last, when everybody has his mappings.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/mapped_files.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/system_v/segment.h"
#include "stasis/image_schema.h"

namespace stasis {

constexpr auto enum_names(MemoryOrigin) {
  return std::array{EnumName{MemoryOrigin::kMemFd, "memfd"}, EnumName{MemoryOrigin::kAnonymous, "anonymous"},
                    EnumName{MemoryOrigin::kSystemV, "system_v"}};
}

struct SharedMemoryRecord {
  static constexpr RecordType kType = RecordType::kSharedMemory;
  static constexpr std::string_view kName = "shared_memory";

  std::string name;  // as memfd_create was given it
  std::uint64_t size = 0;
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t seals = 0;  // F_SEAL_*
  MemoryOrigin origin = MemoryOrigin::kMemFd;
  std::uint64_t huge_page = 0;  // bytes; 0: usual pages
  SegmentRecord segment;        // for MemoryOrigin::kSystemV

  static constexpr auto fields() {
    using R = SharedMemoryRecord;
    return std::tuple{field<1>("name", &R::name, MaxLength{249}),
                      field<2>("size", &R::size),
                      field<3>("mode", &R::mode, Show::kOctal),
                      field<4>("uid", &R::uid),
                      field<5>("gid", &R::gid),
                      field<6>("seals", &R::seals, Show::kHex),
                      field<7>("origin", &R::origin),
                      field<8>("huge_page", &R::huge_page),
                      field<9>("segment", &R::segment)};
  }
};

struct MemFdRecord {
  static constexpr RecordType kType = RecordType::kMemFd;
  static constexpr std::string_view kName = "memfd";

  ObjRef memory;
  std::uint32_t flags = 0;
  std::int64_t offset = 0;

  static constexpr auto fields() {
    using R = MemFdRecord;
    return std::tuple{field<1>("memory", &R::memory), field<2>("flags", &R::flags, Show::kOctal),
                      field<3>("offset", &R::offset)};
  }
};

bool claims_mem_fd(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> mem_fd_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                        const CheckpointPolicy& policy);
Result<void> checkpoint_mem_fd(void* context, ObjRef ref, void* object);
Result<void*> restore_mem_fd(void* context, ObjRef ref);
// Object = OpenInode*.
Result<void> checkpoint_shared_memory(void* context, ObjRef ref, void* object);
Result<void*> restore_shared_memory(void* context, ObjRef ref);

struct RestoredSharedMemory : RestoredMapping {
  std::uint64_t size = 0;
  std::uint64_t huge_page = 0;
  RestoredSegment attached;  // of a segment; it has no `fd`

  std::optional<Segment> segment() const override;
  Result<void> fill(std::span<const PageRun> runs, std::span<const std::byte> pages) override;
};

inline constexpr ObjOps kSharedMemoryOps = {kind::kSharedMemory,  "shared_memory",          nullptr,
                                            RestoredObject::drop, checkpoint_shared_memory, restore_shared_memory};
inline constexpr FileKind kMemFdKind = {
    .ops = {kind::kMemFd, "memfd", nullptr, RestoredObject::drop, checkpoint_mem_fd, restore_mem_fd},
    .claims = claims_mem_fd,
    .obstacle = mem_fd_obstacle,
    .saves_locks = false};

}  // namespace stasis
