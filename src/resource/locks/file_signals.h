// SPDX-License-Identifier: Apache-2.0
// What makes an open file send signals: its owner (F_SETOWN), its signal (F_SETSIG), O_ASYNC, and leases (F_SETLEASE).
// The kernel remembers who set them, so the task itself sets them again.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

#include "base/ids.h"
#include "resource/open_file/open_file.h"
#include "stasis/image_schema.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

enum class FileOwnerKind : std::uint8_t { kNobody = 0, kThread = 1, kProcess = 2, kGroup = 3 };
constexpr auto enum_names(FileOwnerKind) {
  return std::array{EnumName{FileOwnerKind::kNobody, "nobody"}, EnumName{FileOwnerKind::kThread, "thread"},
                    EnumName{FileOwnerKind::kProcess, "process"}, EnumName{FileOwnerKind::kGroup, "group"}};
}
enum class FileLease : std::uint8_t { kNone = 0, kRead = 1, kWrite = 2 };
constexpr auto enum_names(FileLease) {
  return std::array{EnumName{FileLease::kNone, "none"}, EnumName{FileLease::kRead, "read"},
                    EnumName{FileLease::kWrite, "write"}};
}

// Of the open file behind one descriptor.
struct FileSignalsRecord {
  std::int32_t fd = 0;
  FileOwnerKind owner_kind = FileOwnerKind::kNobody;
  ImagePid owner;
  std::uint32_t signal = 0;  // F_SETSIG; 0: SIGIO
  bool asynchronous = false;
  FileLease lease = FileLease::kNone;

  bool empty() const {
    return owner_kind == FileOwnerKind::kNobody && signal == 0 && !asynchronous && lease == FileLease::kNone;
  }
  static constexpr auto fields() {
    using R = FileSignalsRecord;
    return std::tuple{
        field<1>("fd", &R::fd),         field<2>("owner_kind", &R::owner_kind),     field<3>("owner", &R::owner),
        field<4>("signal", &R::signal), field<5>("asynchronous", &R::asynchronous), field<6>("lease", &R::lease)};
  }
};

// Without `fd`. kExternalPeer: the owner is not in the tree; kUnsupportedObject: a lease that is being broken.
Result<FileSignalsRecord> look_at_signals(const OpenFile& file, const OpenFileTable& tree);
// At most four calls, and this many bytes.
inline constexpr std::size_t kFileSignalCalls = 4, kFileSignalBytes = 64;
void restore_signals(const FileSignalsRecord& record, Batch& batch, BatchChecks& checks);

}  // namespace stasis
