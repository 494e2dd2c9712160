// SPDX-License-Identifier: Apache-2.0
// POSIX message queues (mq_overview(7)): each opening (kMessageQueue), and the queue behind it with its messages
// (kPosixQueue, by inode).
//
// Messages can be looked at only by taking them out. They are put back at once, in the same order; that is done only
// where every holder is in the tree, and stopped, and where nobody waits to be told of a message.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct QueuedMessageRecord {
  std::uint32_t priority = 0;
  std::vector<std::byte> bytes;

  static constexpr auto fields() {
    return std::tuple{field<1>("priority", &QueuedMessageRecord::priority),
                      field<2>("bytes", &QueuedMessageRecord::bytes, MaxLength{1 << 24})};
  }
};

struct PosixQueueRecord {
  static constexpr RecordType kType = RecordType::kPosixQueue;
  static constexpr std::string_view kName = "posix_queue";

  std::string name;  // "/name"
  bool unlinked = false;
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint64_t max_messages = 0;
  std::uint64_t message_size = 0;  // at most; bytes
  std::vector<QueuedMessageRecord> messages;

  static constexpr auto fields() {
    using R = PosixQueueRecord;
    return std::tuple{field<1>("name", &R::name, MaxLength{256}),
                      field<2>("unlinked", &R::unlinked),
                      field<3>("mode", &R::mode, Show::kOctal),
                      field<4>("uid", &R::uid),
                      field<5>("gid", &R::gid),
                      field<6>("max_messages", &R::max_messages),
                      field<7>("message_size", &R::message_size),
                      field<8>("messages", &R::messages)};
  }
};

struct MessageQueueRecord {
  static constexpr RecordType kType = RecordType::kMessageQueue;
  static constexpr std::string_view kName = "message_queue";

  ObjRef queue;
  std::uint32_t flags = 0;

  static constexpr auto fields() {
    return std::tuple{field<1>("queue", &MessageQueueRecord::queue),
                      field<2>("flags", &MessageQueueRecord::flags, Show::kOctal)};
  }
};

bool claims_message_queue(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> message_queue_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                               const CheckpointPolicy& policy);
Result<void> checkpoint_message_queue(void* context, ObjRef ref, void* object);
Result<void*> restore_message_queue(void* context, ObjRef ref);
// Object = OpenInode*.
Result<void> checkpoint_posix_queue(void* context, ObjRef ref, void* object);
Result<void*> restore_posix_queue(void* context, ObjRef ref);

inline constexpr ObjOps kPosixQueueOps = {kind::kPosixQueue,    "posix_queue",          nullptr,
                                          RestoredObject::drop, checkpoint_posix_queue, restore_posix_queue};
inline constexpr FileKind kMessageQueueKind = {
    .ops = {kind::kMessageQueue, "message_queue", nullptr, RestoredObject::drop, checkpoint_message_queue,
            restore_message_queue},
    .claims = claims_message_queue,
    .obstacle = message_queue_obstacle};

}  // namespace stasis
