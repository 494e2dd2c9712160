// SPDX-License-Identifier: Apache-2.0
// System V semaphores (semget(2)) and message queues (msgget(2)) that the tree uses (kSystemV; one object for all).
//
// They belong to the IPC namespace, not to processes. In a namespace that Stasis made, all of them are the tree's;
// elsewhere those are on which a process of the tree did the last operation, or on which one waits and nobody else has
// operated that still lives. They stay when the tree is killed: a restart in the same namespace finds them, and gives
// them the values that they had.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/restart_context.h"
#include "resource/thread/thread_record.h"
#include "stasis/image_schema.h"

namespace stasis {

struct SystemVOwner {
  std::int32_t id = -1;
  std::int32_t key = 0;
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;

  static constexpr auto fields() {
    using R = SystemVOwner;
    return std::tuple{field<1>("id", &R::id), field<2>("key", &R::key, Show::kHex),
                      field<3>("mode", &R::mode, Show::kOctal), field<4>("uid", &R::uid), field<5>("gid", &R::gid)};
  }
};

struct SemaphoreSetRecord {
  SystemVOwner owner;
  std::vector<std::uint32_t> values;
  bool only_awaited = false;  // nobody of the tree has operated on it yet: whoever does may not be of the tree

  static constexpr auto fields() {
    using R = SemaphoreSetRecord;
    return std::tuple{field<1>("owner", &R::owner), field<2>("values", &R::values),
                      field<3>("only_awaited", &R::only_awaited)};
  }
};

struct SystemVMessageRecord {
  std::int64_t type = 0;
  std::vector<std::byte> bytes;

  bool operator==(const SystemVMessageRecord&) const = default;
  static constexpr auto fields() {
    return std::tuple{field<1>("type", &SystemVMessageRecord::type),
                      field<2>("bytes", &SystemVMessageRecord::bytes, MaxLength{1 << 24})};
  }
};

struct SystemVQueueRecord {
  SystemVOwner owner;
  std::uint64_t max_bytes = 0;
  std::vector<SystemVMessageRecord> messages;
  bool only_awaited = false;  // as above

  static constexpr auto fields() {
    using R = SystemVQueueRecord;
    return std::tuple{field<1>("owner", &R::owner), field<2>("max_bytes", &R::max_bytes),
                      field<3>("messages", &R::messages), field<4>("only_awaited", &R::only_awaited)};
  }
};

struct SystemVRecord {
  static constexpr RecordType kType = RecordType::kSystemV;
  static constexpr std::string_view kName = "system_v";

  std::vector<SemaphoreSetRecord> semaphores;
  std::vector<SystemVQueueRecord> queues;

  bool empty() const { return semaphores.empty() && queues.empty(); }
  static constexpr auto fields() {
    return std::tuple{field<1>("semaphores", &SystemVRecord::semaphores), field<2>("queues", &SystemVRecord::queues)};
  }
};

// Whose objects count: those of these processes, and those on which one of their threads is found in a call.
struct SystemVUsers {
  std::vector<HostPid> tree;
  std::set<int> semaphores;
  std::set<int> queues;

  void note_calls(std::span<const ThreadRecord> threads);
};

// What the processes use, in their IPC namespace. Messages are copied (MSG_COPY), not taken. Objects that we may not
// read are left out.
Result<SystemVRecord> gather_system_v(const SystemVUsers& users);
// Makes them again, or gives those that are still there their old state (but leaves those alone that the tree has only
// waited for). If the restart fails, what was made goes, and what was there is as before.
// kBusy: an id or key belongs to another object now.
Result<void> restore_system_v_objects(const SystemVRecord& record, RestartContext& context);

// Object = SystemVUsers*.
Result<void> checkpoint_system_v(void* context, ObjRef ref, void* object);
Result<void*> restore_system_v(void* context, ObjRef ref);

inline constexpr ObjOps kSystemVOps = {kind::kSystemV,       "system_v",          nullptr,
                                       RestoredObject::drop, checkpoint_system_v, restore_system_v};

}  // namespace stasis
