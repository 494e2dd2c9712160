// SPDX-License-Identifier: Apache-2.0
#include "resource/event_fd/event_fd.h"

#include <sys/eventfd.h>

#include <cerrno>

#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

constexpr std::uint64_t kMaxCount = ~std::uint64_t{0} - 1;

Result<void> add(int fd, std::uint64_t value) {
  if (value == 0 || ::eventfd_write(fd, value) == 0) return {};
  return Error::from_errno(errno, "set the count of an eventfd");
}

}  // namespace

bool claims_event_fd(const OpenFile& file, const OpenFileTable&) { return file.link == "anon_inode:[eventfd]"; }

Result<bool> probe_semaphore(int fd, std::uint64_t count) {
  // With 2 or more in it, a read takes 1 from a semaphore and everything from a counter.
  const std::uint64_t extra = count >= 2 ? 0 : 2 - count;
  STASIS_TRY(add(fd, extra));
  std::uint64_t got = 0;
  if (::eventfd_read(fd, &got) != 0) return Error::from_errno(errno, "read an eventfd");
  if (got != 1) {
    STASIS_TRY(add(fd, count));
    return false;
  }
  // count + extra - 1 are left.
  if (extra == 0) {
    STASIS_TRY(add(fd, 1));
  } else if (extra == 2 && ::eventfd_read(fd, &got) != 0) {
    return Error::from_errno(errno, "read an eventfd");
  }
  return true;
}

Result<void> checkpoint_event_fd(void* context, ObjRef ref, void* object) {
  const OpenFile& file = *static_cast<OpenFile*>(object);
  EventFdRecord record{.flags = file.info.flags};
  record.count = STASIS_TRY(fdinfo_number<std::uint64_t>(file.info, "eventfd-count", 16));
  if (const auto told = fdinfo_number<int>(file.info, "eventfd-semaphore")) {
    record.semaphore = *told != 0;
  } else {
    record.semaphore = STASIS_TRY(probe_semaphore(file.held.get(), record.count));
  }
  return CheckpointContext::of(context).write_object(ref, kind::kEventFd, record);
}

Result<void*> restore_event_fd(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const EventFdRecord record = STASIS_TRY(ctx.image.read<EventFdRecord>());
  if (record.count > kMaxCount) return Error(Errc::kBadImage, "the count of an eventfd is too large");
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (record.semaphore ? EFD_SEMAPHORE : 0)));
  if (!fd) return Error::from_errno(errno, "make an eventfd");
  STASIS_TRY(add(fd.get(), record.count));
  STASIS_TRY(set_status_flags(fd.get(), record.flags));
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  return to_object(std::move(file));
}

}  // namespace stasis
