// SPDX-License-Identifier: Apache-2.0
#include "resource/locks/file_lock.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <cerrno>

namespace stasis {
namespace {

struct ::flock to_flock(const FileLockRecord& lock) {
  struct ::flock range{};
  range.l_type = lock.exclusive ? F_WRLCK : F_RDLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(lock.start);
  range.l_len = static_cast<off_t>(lock.length);
  return range;
}

}  // namespace

std::optional<FileLockRecord> to_record(const kernel::FileLock& lock) {
  FileLockRecord record;
  switch (lock.kind) {
    case kernel::LockKind::kFlock:
      record.kind = FileLockKind::kFlock;
      break;
    case kernel::LockKind::kOfd:
      record.kind = FileLockKind::kOpenFile;
      break;
    case kernel::LockKind::kPosix:
      record.kind = FileLockKind::kPosix;
      break;
    default:
      return std::nullopt;
  }
  if (lock.waiting || (lock.access != kernel::LockAccess::kRead && lock.access != kernel::LockAccess::kWrite)) {
    return std::nullopt;
  }
  record.exclusive = lock.access == kernel::LockAccess::kWrite;
  record.start = lock.start;
  record.length = lock.end ? *lock.end - lock.start + 1 : 0;
  return record;
}

Result<void> take_lock(int fd, const FileLockRecord& lock, const std::string& path) {
  struct ::flock range = to_flock(lock);
  const int failed = lock.kind == FileLockKind::kFlock ? ::flock(fd, (lock.exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB)
                                                       : ::fcntl(fd, F_OFD_SETLK, &range);
  if (failed == 0) return {};
  if (errno != EAGAIN && errno != EACCES) return Error::from_errno(errno, "lock " + path);
  return Error(Errc::kFileChanged, fmt::format("somebody else has locked {} meanwhile", path))
      .with_help("end the program that has the lock (lslocks shows it)");
}

void take_posix_lock(int fd, const FileLockRecord& lock, Batch& batch, BatchChecks& checks) {
  const auto range = batch.put(to_flock(lock));
  checks.add(batch.call(SYS_fcntl, fd, F_SETLK, range.remote),
             fmt::format("take the lock of descriptor {} (somebody else may have it: lslocks)", fd));
}

}  // namespace stasis
