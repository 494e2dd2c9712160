// SPDX-License-Identifier: Apache-2.0
#include "resource/pid_fd/pid_fd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "kernel/pidfd.h"
#include "kernel/proc_dir.h"
#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

constexpr std::uint32_t kThread = O_EXCL;  // PIDFD_THREAD

bool is_in_tree(HostPid pid, const OpenFileTable& tree) {
  return std::ranges::find(tree.descriptors, pid, &DescriptorTable::pid) != tree.descriptors.end();
}

// A process of the tree that has ended and was not waited for has no descriptors.
bool is_zombie_of_tree(HostPid pid, const OpenFileTable& tree) {
  const auto proc = kernel::ProcDir::open(pid);
  const auto stat = proc ? proc->stat() : Result<kernel::ProcStat>(proc.error());
  return stat && stat->state == 'Z' && is_in_tree(HostPid(stat->ppid), tree);
}

// -1: it has ended and was waited for; 0: it is in another pid namespace.
Result<std::int32_t> target_of(const OpenFile& file) { return fdinfo_number<std::int32_t>(file.info, "Pid"); }

class RestoredPidFd : public RestoredFile {
 public:
  RestoredPidFd(ImagePid pid, std::uint32_t flags) : pid_(pid), flags_(flags) {}
  std::optional<OwnCall> own_call() const override {
    if (replaced_) return std::nullopt;
    return OwnCall{.number = SYS_pidfd_open, .arguments = {static_cast<std::uint64_t>(pid_.value()), flags_}};
  }
  void replace(UniqueFd other) override {
    RestoredFile::replace(std::move(other));
    replaced_ = true;
  }

 private:
  ImagePid pid_;
  std::uint32_t flags_;
  bool replaced_ = false;
};

// That of a process which has come and gone.
Result<UniqueFd> open_ended() {
  const pid_t child = ::fork();
  if (child < 0) return Error::from_errno(errno, "fork");
  if (child == 0) ::_exit(0);
  auto fd = kernel::pidfd_open(HostPid(child));
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return fd;
}

}  // namespace

bool claims_pid_fd(const OpenFile& file, const OpenFileTable&) { return file.link == "anon_inode:[pidfd]"; }

std::optional<Obstacle> pid_fd_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  const auto pid = target_of(file);
  if (!pid) return file.obstacle(pid.error().code(), pid.error().message());
  if ((file.info.flags & kThread) != 0) {
    return file.obstacle(Errc::kUnsupportedObject, "it stands for a thread, not a process (PIDFD_THREAD)");
  }
  if (*pid < 0 || is_in_tree(HostPid(*pid), tree) || is_zombie_of_tree(HostPid(*pid), tree)) return std::nullopt;
  return file.obstacle(Errc::kExternalPeer,
                       fmt::format("it stands for process {}, which is not in the process tree", *pid),
                       "checkpoint a process that is the parent of both");
}

Result<void> checkpoint_pid_fd(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  PidFdRecord record{.pid = ImagePid(0), .flags = file.info.flags & O_NONBLOCK};
  const std::int32_t pid = STASIS_TRY(target_of(file));
  if (pid > 0) {
    const auto proc = STASIS_TRY(kernel::ProcDir::open(HostPid(pid)));
    const auto status = STASIS_TRY(proc.status());
    record.pid = ImagePid(status.ns_tgid.empty() ? pid : status.ns_tgid.back());
  }
  return ctx.write_object(ref, kind::kPidFd, record);
}

Result<void*> restore_pid_fd(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const PidFdRecord record = STASIS_TRY(ctx.image.read<PidFdRecord>());
  if (record.pid.value() < 0) return Error(Errc::kBadImage, "a pidfd of an impossible process");
  if (record.pid.value() != 0) {
    return to_object(std::make_unique<RestoredPidFd>(record.pid, record.flags & O_NONBLOCK));
  }
  auto file = std::make_unique<RestoredFile>();
  UniqueFd fd = STASIS_TRY(open_ended());
  STASIS_TRY(set_status_flags(fd.get(), record.flags));
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  return to_object(std::move(file));
}

}  // namespace stasis
