// SPDX-License-Identifier: Apache-2.0
// Locks on files: flock(2) and open-file-description locks, which hang on an open file description, and POSIX record
// locks (fcntl(2) F_SETLK), which hang on a process (its descriptor table).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "kernel/proc_locks.h"
#include "stasis/image_schema.h"
#include "stasis/result.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

enum class FileLockKind : std::uint8_t { kFlock = 0, kOpenFile = 1, kPosix = 2 };
constexpr auto enum_names(FileLockKind) {
  return std::array{EnumName{FileLockKind::kFlock, "flock"}, EnumName{FileLockKind::kOpenFile, "open_file"},
                    EnumName{FileLockKind::kPosix, "posix"}};
}

struct FileLockRecord {
  FileLockKind kind = FileLockKind::kFlock;
  bool exclusive = false;
  std::uint64_t start = 0;   // first byte
  std::uint64_t length = 0;  // 0: to the end of the file, however long it gets

  bool operator==(const FileLockRecord&) const = default;
  static constexpr auto fields() {
    using R = FileLockRecord;
    return std::tuple{field<1>("kind", &R::kind), field<2>("exclusive", &R::exclusive), field<3>("start", &R::start),
                      field<4>("length", &R::length)};
  }
};

// Nothing for a kind that can't be saved (leases), or one that is not held but waited for.
std::optional<FileLockRecord> to_record(const kernel::FileLock& lock);

// Takes a lock of the first two kinds by any descriptor of the description. Somebody else has it: kFileChanged.
Result<void> take_lock(int fd, const FileLockRecord& lock, const std::string& path);
// Adds the call by which a process takes a POSIX lock with its descriptor `fd`. REQUIRES: it closes no descriptor of
// that file afterwards, which would release the lock.
void take_posix_lock(int fd, const FileLockRecord& lock, Batch& batch, BatchChecks& checks);

}  // namespace stasis
