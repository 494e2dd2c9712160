// SPDX-License-Identifier: Apache-2.0
#include "resource/file_table/file_table.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>

#include "kernel/pidfd.h"
#include "resource/checkpoint_context.h"
#include "resource/file_kinds.h"

namespace stasis {
namespace {

constexpr std::int32_t kHighestNumber = 1 << 30;  // fs.nr_open can't be set higher
constexpr unsigned kNoEnd = ~0u;

Error bad_table(std::string_view what) { return Error(Errc::kBadImage, fmt::format("descriptor table: {}", what)); }

Result<void> check(const FileTableRecord& record) {
  std::int32_t last = -1;
  for (const DescriptorRecord& d : record.descriptors) {
    if (d.fd <= last) return bad_table("numbers do not ascend");
    if (d.fd > kHighestNumber) return bad_table(fmt::format("number {}", d.fd));
    if (find_file_kind(d.kind) == nullptr) return bad_table(fmt::format("descriptor {} is of kind {}", d.fd, d.kind));
    last = d.fd;
  }
  const auto has = [&](std::int32_t fd) {
    return std::ranges::binary_search(record.descriptors, fd, {}, &DescriptorRecord::fd);
  };
  for (const PosixLockRecord& lock : record.posix_locks) {
    if (!has(lock.fd)) return bad_table(fmt::format("a lock of descriptor {}, which is not in it", lock.fd));
  }
  for (const FileSignalsRecord& signals : record.signals) {
    if (!has(signals.fd)) return bad_table(fmt::format("signals of descriptor {}, which is not in it", signals.fd));
  }
  return {};
}

// --inherit-fd N=M: the file that the first table with a number N has there is replaced for all who share it.
Result<void> inherit(RestoredFile& file, int number, RestartContext& ctx) {
  const auto wish = ctx.policy.inherit_fds.find(number);
  if (wish == ctx.policy.inherit_fds.end() || !ctx.inherited.insert(number).second) return {};
  auto own = ctx.park_duplicate(wish->second);
  if (!own) return std::move(own).error().note(fmt::format("--inherit-fd {}={}", number, wish->second));
  file.replace(*std::move(own));
  return {};
}

// lseek() had the kernel make the text that follows `offset`, of a task that is not itself again: the gate is among its
// mappings, a tracer in its status. After a read elsewhere it is made anew at the next read (seq_read_iter() in
// fs/seq_file.c). A file that can't be read there (mem, a directory) has no such text.
void forget_text(int fd, std::uint64_t offset) {
  std::array<char, 2> elsewhere;
  if (offset != 0) (void)!::pread(fd, elsewhere.data(), offset == 1 ? 2 : 1, 0);
}

// What TIOCGPTPEER opened with O_CLOEXEC (terminal emulators do) has that among its flags for ever, and /proc tells it
// of each of its descriptors. Standard streams are made to be inherited.
bool is_close_on_exec(const DescriptorTable::Slot& slot) {
  if (!slot.close_on_exec || slot.fd > 2 || !S_ISCHR(slot.file->stat.st_mode) || !slot.file->held)
    return slot.close_on_exec;
  return (::fcntl(slot.file->held.get(), F_GETFL) & O_CLOEXEC) == 0;
}

}  // namespace

Result<void> checkpoint_file_table(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const auto& table = *static_cast<DescriptorTable*>(object);
  FileTableRecord record;
  record.descriptors.reserve(table.slots.size());
  for (const DescriptorTable::Slot& slot : table.slots) {
    const FileKind* const kind = find_file_kind(*slot.file, ctx.files);
    if (kind == nullptr) {
      return slot.file->obstacle(Errc::kUnsupportedObject, "a descriptor of this kind can't be saved").to_error();
    }
    auto file = ctx.objects.checkpoint_obj(context, slot.file, kind->ops.type);
    if (!file) {
      return std::move(file).error().note(
          fmt::format("pid {} fd {} ({})", table.pid.value(), slot.fd, slot.file->link));
    }
    record.descriptors.push_back(
        {.fd = slot.fd, .close_on_exec = is_close_on_exec(slot), .file = *file, .kind = kind->ops.type});
    if (slot.file->pid() == table.pid && slot.file->fd() == slot.fd) {
      FileSignalsRecord signals = STASIS_TRY(look_at_signals(*slot.file, ctx.files));
      signals.fd = slot.fd;
      if (!signals.empty()) record.signals.push_back(signals);
    }
    for (const kernel::FileLock& lock : slot.locks) {
      if (const auto known = to_record(lock)) record.posix_locks.push_back({slot.fd, *known});
    }
  }
  return ctx.write_object(ref, kind::kFileTable, record);
}

Result<void*> restore_file_table(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const FileTableRecord record = STASIS_TRY(ctx.image.read<FileTableRecord>());
  STASIS_TRY(check(record));
  auto table = std::make_unique<RestoredFileTable>();
  for (const DescriptorRecord& d : record.descriptors) {
    RestoredFile* const file = STASIS_TRY(fetch_restored<RestoredFile>(ctx.objects, d.file, d.kind));
    STASIS_TRY(inherit(*file, d.fd, ctx));
    table->entries_.push_back({.fd = d.fd, .close_on_exec = d.close_on_exec, .file = file});
  }
  table->locks_ = record.posix_locks;
  table->signals_ = record.signals;
  return to_object(std::move(table));
}

Result<int> parking_base(const ImageReader& image) {
  int base = 0;
  for (std::size_t i = 0; i < image.record_count(); ++i) {
    const RawRecord raw = image.record(i);
    if (raw.type != RecordType::kFileTable) continue;
    const auto record = STASIS_TRY(decode<FileTableRecord>(raw.payload, FileTableRecord::kName));
    STASIS_TRY(check(record));
    if (!record.descriptors.empty()) base = std::max(base, record.descriptors.back().fd + 1);
  }
  return base;
}

Result<void> RestoredFileTable::check_bound() const {
  for (const Entry& entry : entries_) {
    if (entry.file->own_call()) continue;
    if (entry.file->descriptor_for(entry.fd) < 0) return entry.file->unbound(entry.fd);
  }
  return {};
}

Result<void> RestoredFileTable::adopt_own(HostPid task, const RestartContext& context) const {
  UniqueFd pidfd;
  for (const Entry& entry : entries_) {
    if (!entry.file->own_call() || entry.file->fd) continue;
    if (!pidfd) pidfd = STASIS_TRY(kernel::pidfd_open(task));
    UniqueFd own = STASIS_TRY(kernel::pidfd_getfd(pidfd.get(), entry.fd));
    forget_text(own.get(), entry.file->own_call()->arguments[1]);
    entry.file->fd = STASIS_TRY(context.park(std::move(own)));
  }
  return {};
}

Result<RestoredFileTable::Install> RestoredFileTable::Install::plan(const RestoredFileTable& table) {
  STASIS_TRY(table.check_bound());
  return Install(table);
}

bool RestoredFileTable::Install::close_gap(Batch& batch, BatchChecks& checks, unsigned first, unsigned last) const {
  if (!batch.has_room(1)) return false;
  checks.add(batch.call(SYS_close_range, first, last, 0), fmt::format("close descriptors {} to {}", first, last));
  return true;
}

bool RestoredFileTable::Install::duplicate(Batch& batch, BatchChecks& checks) {
  for (; duplicated_ < entries_.size(); ++duplicated_) {
    if (!batch.has_room(1)) return false;
    const Entry& entry = entries_[duplicated_];
    if (entry.file->own_call()) {
      // Nothing of the coordinator's may lie there.
      if (!close_gap(batch, checks, static_cast<unsigned>(entry.fd), static_cast<unsigned>(entry.fd))) return false;
      continue;
    }
    checks.add(
        batch.call(SYS_dup3, entry.file->descriptor_for(entry.fd), entry.fd, entry.close_on_exec ? O_CLOEXEC : 0),
        fmt::format("make descriptor {}", entry.fd));
  }
  return true;
}

bool RestoredFileTable::Install::close_others(Batch& batch, BatchChecks& checks) {
  for (; gaps_ < entries_.size(); ++gaps_) {
    const int begin = gaps_ == 0 ? 0 : entries_[gaps_ - 1].fd + 1;
    const int end = entries_[gaps_].fd;
    if (begin == end) continue;
    if (!close_gap(batch, checks, static_cast<unsigned>(begin), static_cast<unsigned>(end - 1))) return false;
  }
  if (gaps_ > entries_.size()) return true;
  const unsigned behind = entries_.empty() ? 0 : static_cast<unsigned>(entries_.back().fd) + 1;
  if (!close_gap(batch, checks, behind, kNoEnd)) return false;
  ++gaps_;
  return true;
}

// The kernel gives out the lowest free number, which is known: all others are closed by now.
bool RestoredFileTable::Install::open_own(Batch& batch, BatchChecks& checks) {
  for (; opened_ < entries_.size(); ++opened_) {
    const Entry& entry = entries_[opened_];
    const auto call = entry.file->own_call();
    if (!call) continue;
    if (!batch.has_room(4, call->path.size() + 1)) return false;
    const std::string what = fmt::format("open descriptor {} {}", entry.fd, call->path);
    const auto before = entries_.first(opened_);
    const auto twin = std::ranges::find(before, entry.file, &Entry::file);
    const int flags = entry.close_on_exec ? O_CLOEXEC : 0;
    if (twin != before.end()) {
      checks.add(batch.call(SYS_dup3, twin->fd, entry.fd, flags), what);
      continue;
    }
    // Taken: every number before this entry, and all behind it that were duplicated.
    int lowest = 0;
    const auto is_taken = [&](int number) {
      const auto at = std::ranges::lower_bound(entries_, number, {}, &Entry::fd);
      return at != entries_.end() && at->fd == number &&
             (at < entries_.begin() + static_cast<std::ptrdiff_t>(opened_) || !at->file->own_call());
    };
    while (is_taken(lowest)) ++lowest;
    if (call->path.empty()) {
      checks.add_equal(batch.call(call->number, call->arguments[0], call->arguments[1]), lowest, what);
    } else {
      const auto path = batch.text(call->path);
      checks.add_equal(batch.call(call->number, AT_FDCWD, path, call->arguments[0] | O_CLOEXEC), lowest, what);
      if (call->arguments[1] != 0) {
        checks.add_equal(batch.call(SYS_lseek, lowest, call->arguments[1], SEEK_SET),
                         static_cast<std::int64_t>(call->arguments[1]), what + " (its offset)");
      }
    }
    if (lowest != entry.fd) {
      checks.add(batch.call(SYS_dup3, lowest, entry.fd, flags), what);
      checks.add(batch.call(SYS_close, lowest), what);
    } else if (!entry.close_on_exec) {
      checks.add(batch.call(SYS_fcntl, entry.fd, F_SETFD, 0), what);
    }
  }
  return true;
}

bool RestoredFileTable::watch_own(Batch& batch, BatchChecks& checks) const {
  for (const Entry& set : entries_) {
    for (RestoredFile::OwnWatch& watch : set.file->own_watches()) {
      const auto watched = std::ranges::lower_bound(entries_, watch.number, {}, &Entry::fd);
      const bool here = watched != entries_.end() && watched->fd == watch.number && watched->file == watch.file;
      if (watch.done || !here) continue;
      epoll_event event{};
      if (!batch.has_room(2, sizeof event)) return false;
      event.events = watch.events;
      event.data.u64 = watch.data;
      batch.call(SYS_epoll_ctl, set.fd, EPOLL_CTL_DEL, watch.number, 0);
      checks.add(batch.call(SYS_epoll_ctl, set.fd, EPOLL_CTL_ADD, watch.number, batch.put(event)),
                 fmt::format("watch descriptor {} by epoll", watch.number));
      watch.done = true;
    }
  }
  return true;
}

bool RestoredFileTable::Install::set_signals(Batch& batch, BatchChecks& checks) {
  for (; signalled_ < signals_.size(); ++signalled_) {
    if (!batch.has_room(kFileSignalCalls, kFileSignalBytes)) return false;
    restore_signals(signals_[signalled_], batch, checks);
  }
  return true;
}

bool RestoredFileTable::Install::lock(Batch& batch, BatchChecks& checks) {
  for (; locked_ < locks_.size(); ++locked_) {
    if (!batch.has_room(1, sizeof(struct ::flock))) return false;
    take_posix_lock(locks_[locked_].fd, locks_[locked_].lock, batch, checks);
  }
  return true;
}

void RestoredFileTable::Install::fill(Batch& batch, BatchChecks& checks) {
  done_ = duplicate(batch, checks) && close_others(batch, checks) && open_own(batch, checks) &&
          set_signals(batch, checks) && lock(batch, checks);
}

}  // namespace stasis
