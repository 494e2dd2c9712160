// SPDX-License-Identifier: Apache-2.0
#include "resource/object_table.h"

#include <algorithm>
#include <array>

#include "resource/file_kind_rows.h"
#include "resource/file_table/file_table.h"
#include "resource/fs/fs.h"
#include "resource/memory/memory_restore.h"
#include "resource/nameless_file/nameless_file.h"
#include "resource/process/process_record.h"
#include "resource/seccomp/seccomp.h"
#include "resource/signal/restored_sighand.h"
#include "resource/system_v/semaphores_and_queues.h"
#include "resource/thread/thread_record.h"

namespace stasis {
namespace {

// The kinds that are not open files.
constexpr std::array kOtherKinds = {
    kMemoryOps,       kFileTableOps, kFsOps,         kSighandOps, kPipeOps,    kSharedMemoryOps,
    kNamelessFileOps, kUnixLinkOps,  kPosixQueueOps, kSystemVOps, kSeccompOps,
};

constexpr auto kObjectTable = [] {
  std::array<ObjOps, kOtherKinds.size() + kFileKinds.size()> table{};
  const auto rest = std::ranges::copy(kOtherKinds, table.begin()).out;
  std::ranges::transform(kFileKinds, rest, &FileKind::ops);
  std::ranges::sort(table, {}, &ObjOps::type);
  return table;
}();
static_assert(std::ranges::adjacent_find(kObjectTable, {}, &ObjOps::type) == kObjectTable.end(),
              "two rows for one kind of object");
static_assert(kObjectTable.front().type > kObjIgnore, "kind 0 is the hash's own");

constexpr auto kBorrowedTable = [] {
  auto table = kObjectTable;
  for (ObjOps& row : table) row.drop = nullptr;
  for (const FileKind& kind : kFileKinds) {
    std::ranges::find(table, kind.ops.type, &ObjOps::type)->drop = [](void* object, LastRef) {
      static_cast<OpenFile*>(object)->held.reset();
    };
  }
  return table;
}();

constexpr auto kRecords =
    record_registry<TreeRecord, ProcessRecord, ThreadRecord, MemoryRecord, SighandRecord, FileTableRecord, FsRecord,
                    PathFileRecord, PipeRecord, PipeEndRecord, ExternalRecord, EventFdRecord, TimerFdRecord,
                    SignalFdRecord, EpollRecord, NamelessFileRecord, SharedMemoryRecord, MemFdRecord, UnixSocketRecord,
                    UnixLinkRecord, InotifyRecord, TerminalRecord, TerminalSlaveRecord, PosixQueueRecord,
                    MessageQueueRecord, SystemVRecord, PidFdRecord, InetSocketRecord, ProcessFileRecord, SeccompRecord,
                    ForkedPagesRecord, NetlinkSocketRecord, FanotifyRecord, PacketSocketRecord>();

}  // namespace

std::span<const ObjOps> object_table(ObjectUse use) {
  if (use == ObjectUse::kCheckpoint) return kBorrowedTable;
  return kObjectTable;
}

RecordRegistry resource_records() { return kRecords; }

std::span<const EnumName<ObjType>> object_names() {
  static constexpr auto names = [] {
    std::array<EnumName<ObjType>, kObjectTable.size()> rows{};
    std::ranges::transform(kObjectTable, rows.begin(),
                           [](const ObjOps& ops) { return EnumName<ObjType>{ops.type, ops.name}; });
    return rows;
  }();
  return names;
}

}  // namespace stasis
