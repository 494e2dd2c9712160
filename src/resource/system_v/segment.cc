// SPDX-License-Identifier: Apache-2.0
#include "resource/system_v/segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include <bit>
#include <cerrno>

#include "base/file.h"
#include "kernel/page_size.h"
#include "kernel/proc_text.h"
#include "resource/system_v/ipc_namespace.h"
#include "resource/system_v/next_id.h"
#include "resource/system_v/set_status.h"

namespace stasis {
namespace {

constexpr std::uint32_t kDeletedBit = 01000, kLockedBit = 02000;  // SHM_DEST, SHM_LOCKED of sys/shm.h's kernel
constexpr std::uint32_t kPermissions = 0777;

std::string describe(const SegmentRecord& record) {
  return fmt::format("System V shared memory {} (key {:#x})", record.id, static_cast<std::uint32_t>(record.key));
}

Error in_use(const SegmentRecord& record, std::string why) {
  return Error(Errc::kBusy, fmt::format("{}: {}", describe(record), why))
      .with_help("--pids namespace restores the program with its objects in a namespace of its own");
}

// Is it there, left by the program when it was killed? Its last processes may still be ending.
Result<bool> is_left(const SegmentRecord& record, const Patience& patience) {
  constexpr int kTries = 1000;
  for (int tries = 0;; ++tries) {
    ::shmid_ds segment{};
    if (::shmctl(record.id, IPC_STAT, &segment) != 0) return false;
    if (record.deleted || segment.shm_segsz != record.size || segment.shm_perm.__key != record.key) {
      return in_use(record, "the id belongs to another segment now");
    }
    if (segment.shm_nattch == 0) return true;
    if (tries == kTries) return in_use(record, fmt::format("{} others have it", segment.shm_nattch));
    STASIS_TRY(patience.check());
    ::usleep(2000);
  }
}

Result<void> create(const SegmentRecord& record, std::uint64_t huge_page, RestartContext& context) {
  STASIS_TRY(choose_next_id("shm_next_id", record.id));
  int flags = static_cast<int>(record.mode & kPermissions) | IPC_CREAT | IPC_EXCL;
  if (huge_page != 0) flags |= SHM_HUGETLB | std::countr_zero(huge_page) << MAP_HUGE_SHIFT;
  const int id = ::shmget(record.deleted ? IPC_PRIVATE : record.key, record.size, flags);
  if (id < 0 && errno == EEXIST) return in_use(record, "the key belongs to another segment now");
  if (id < 0) return Error::from_errno(errno, "make " + describe(record));
  STASIS_TRY(context.undo.add([id] { ::shmctl(id, IPC_RMID, nullptr); }));
  return id == record.id ? Result<void>() : Result<void>(in_use(record, "the id is taken"));
}

// When everybody is attached.
Result<void> finish(const SegmentRecord& record) {
  ::shmid_ds segment{};
  if (::shmctl(record.id, IPC_STAT, &segment) != 0) return Error::from_errno(errno, "look at " + describe(record));
  const bool differs = segment.shm_perm.uid != record.uid || segment.shm_perm.gid != record.gid ||
                       (segment.shm_perm.mode & kPermissions) != (record.mode & kPermissions);
  const ::ipc_perm ours = segment.shm_perm;
  segment.shm_perm.uid = record.uid;
  segment.shm_perm.gid = record.gid;
  segment.shm_perm.mode = static_cast<decltype(segment.shm_perm.mode)>(record.mode & kPermissions);
  const auto set = [&](::shmid_ds& to) { return ::shmctl(record.id, IPC_SET, &to) == 0; };
  if (differs && !set_status(segment, segment.shm_perm, ours, set)) {
    return Error::from_errno(errno, "set owner and mode of " + describe(record));
  }
  if (record.locked && ::shmctl(record.id, SHM_LOCK, nullptr) != 0) {
    return Error::from_errno(errno, "lock " + describe(record));
  }
  if (record.deleted && ::shmctl(record.id, IPC_RMID, nullptr) != 0) {
    return Error::from_errno(errno, "delete " + describe(record));
  }
  return {};
}

}  // namespace

Result<void> choose_next_id(const char* which, std::int32_t id) {
  const std::string path = fmt::format("/proc/sys/kernel/{}", which);
  const UniqueFd fd = STASIS_TRY(open_at(AT_FDCWD, path, O_WRONLY));
  const std::string text = fmt::format("{}\n", id);
  return write_full(fd.get(), std::as_bytes(std::span(text)));
}

std::optional<SegmentRecord> parse_segment(std::string_view table, std::int32_t id) {
  kernel::text::take_line(table);  // the heading
  while (!table.empty()) {
    std::string_view line = kernel::text::take_line(table);
    SegmentRecord record;
    std::uint64_t skipped = 0;
    const auto next = [&](auto& value, int base = 10) {
      return kernel::text::number(kernel::text::take_word(line), value, base);
    };
    const bool good = next(record.key) && next(record.id) && next(record.mode, 8) && next(record.size) &&
                      next(skipped) && next(skipped) && next(skipped) && next(record.uid) && next(record.gid);
    if (!good || record.id != id) continue;
    record.deleted = (record.mode & kDeletedBit) != 0;
    record.locked = (record.mode & kLockedBit) != 0;
    record.mode &= kPermissions;
    return record;
  }
  return std::nullopt;
}

Result<SegmentRecord> look_at_segment(HostPid pid, std::int32_t id) {
  const auto read_table = []() -> Result<std::vector<std::byte>> {
    const std::string text = STASIS_TRY(read_file(AT_FDCWD, "/proc/sysvipc/shm"));
    const auto all = std::as_bytes(std::span(text));
    return std::vector(all.begin(), all.end());
  };
  const auto bytes = STASIS_TRY(in_ipc_namespace(pid, read_table));
  const std::string_view table(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (auto found = parse_segment(table, id)) return *std::move(found);
  return Error(Errc::kVanished, fmt::format("System V shared memory {} is not in /proc/sysvipc/shm", id));
}

Result<RestoredSegment> RestoredSegment::make(const SegmentRecord& record, std::uint64_t huge_page,
                                              RestartContext& context) {
  const bool left = STASIS_TRY(is_left(record, context.patience));
  if (!left) STASIS_TRY(create(record, huge_page, context));
  void* const at = ::shmat(record.id, nullptr, 0);
  if (at == reinterpret_cast<void*>(-1)) return Error::from_errno(errno, "attach " + describe(record));
  RestoredSegment segment;
  segment.id_ = record.id;
  segment.at_ = static_cast<std::byte*>(at);
  const std::uint64_t page = huge_page != 0 ? huge_page : kernel::page_size();
  segment.size_ = (record.size + page - 1) & ~(page - 1);
  // What the image does not hold is zero.
  if (left && ::madvise(at, segment.size_, MADV_REMOVE) != 0)
    return Error::from_errno(errno, "clear " + describe(record));
  STASIS_TRY(context.deferred.add([record] { return finish(record); }));
  return segment;
}

RestoredSegment& RestoredSegment::operator=(RestoredSegment&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(at_, other.at_);
  std::swap(size_, other.size_);
  return *this;
}

RestoredSegment::~RestoredSegment() {
  if (at_ != nullptr) ::shmdt(at_);
}

}  // namespace stasis
