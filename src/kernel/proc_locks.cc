// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_locks.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

LockKind kind_of(std::string_view name) {
  if (name == "POSIX") return LockKind::kPosix;
  if (name == "OFDLCK") return LockKind::kOfd;
  if (name == "FLOCK") return LockKind::kFlock;
  if (name == "LEASE") return LockKind::kLease;
  if (name == "DELEG") return LockKind::kDelegation;
  if (name == "LAYOUT") return LockKind::kLayout;
  return LockKind::kOther;
}

LockAccess access_of(std::string_view name) {
  if (name == "READ") return LockAccess::kRead;
  if (name == "WRITE") return LockAccess::kWrite;
  if (name == "UNLCK") return LockAccess::kUnlock;
  return LockAccess::kOther;
}

// "fd:01:5678", or "<none>:0" for a lock without a file.
bool parse_file(std::string_view word, FileLock& lock) {
  std::string_view major, minor;
  if (!text::take_until(word, ':', major)) return false;
  if (major == "<none>") return text::number(word, lock.inode);
  return text::take_until(word, ':', minor) && text::number(major, lock.dev_major, 16) &&
         text::number(minor, lock.dev_minor, 16) && text::number(word, lock.inode);
}

}  // namespace

std::optional<FileLock> parse_lock(std::string_view line) {
  FileLock lock;
  std::string_view id = text::take_word(line);
  if (!id.ends_with(':')) return std::nullopt;
  id.remove_suffix(1);
  if (!text::number(id, lock.id)) return std::nullopt;
  std::string_view word = text::take_word(line);
  if (word == "->") {
    lock.waiting = true;
    word = text::take_word(line);
  }
  lock.kind = kind_of(word);
  lock.state = text::take_word(line);
  lock.access = access_of(text::take_word(line));
  if (!text::number(text::take_word(line), lock.pid) || !parse_file(text::take_word(line), lock)) return std::nullopt;
  if (!text::number(text::take_word(line), lock.start)) return std::nullopt;
  const std::string_view end = text::take_word(line);
  if (end != "EOF" && !text::number(end, lock.end.emplace())) return std::nullopt;
  if (!text::trim(line).empty()) return std::nullopt;
  return lock;
}

Result<std::vector<FileLock>> parse_locks(std::string_view text) {
  std::vector<FileLock> locks;
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    auto lock = parse_lock(line);
    if (!lock) return text::malformed("locks", line);
    locks.push_back(*std::move(lock));
  }
  return locks;
}

}  // namespace stasis::kernel
