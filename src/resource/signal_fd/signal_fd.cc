// SPDX-License-Identifier: Apache-2.0
#include "resource/signal_fd/signal_fd.h"

#include <signal.h>
#include <sys/signalfd.h>

#include <cerrno>

#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {

bool claims_signal_fd(const OpenFile& file, const OpenFileTable&) { return file.link == "anon_inode:[signalfd]"; }

Result<void> checkpoint_signal_fd(void* context, ObjRef ref, void* object) {
  const OpenFile& file = *static_cast<OpenFile*>(object);
  SignalFdRecord record{.flags = file.info.flags};
  record.mask = STASIS_TRY(fdinfo_number<std::uint64_t>(file.info, "sigmask", 16));
  return CheckpointContext::of(context).write_object(ref, kind::kSignalFd, record);
}

Result<void*> restore_signal_fd(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const SignalFdRecord record = STASIS_TRY(ctx.image.read<SignalFdRecord>());
  sigset_t mask;
  sigemptyset(&mask);
  // Kernel and libc number signals alike; libc's sigaddset refuses two that it keeps for itself.
  *reinterpret_cast<std::uint64_t*>(&mask) = record.mask;
  UniqueFd fd(::signalfd(-1, &mask, SFD_CLOEXEC));
  if (!fd) return Error::from_errno(errno, "make a signalfd");
  STASIS_TRY(set_status_flags(fd.get(), record.flags));
  auto file = std::make_unique<RestoredFile>();
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  return to_object(std::move(file));
}

}  // namespace stasis
