// SPDX-License-Identifier: Apache-2.0
#include "resource/pipe/pipe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/file.h"
#include "base/log.h"
#include "resource/checkpoint_context.h"
#include "resource/nameless_file/nameless_file.h"

namespace stasis {
namespace {

constexpr std::uint32_t kLargeFile = 0100000;
constexpr int kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;

bool has_name(const OpenFile& file) { return file.link.starts_with('/'); }
// A FIFO that nobody can open any more is but a pipe.
bool keeps_name(const OpenFile& file) { return has_name(file) && find_name(file).state != FileName::kDeleted; }

// Does somebody hold the other side of a pipe, seen or unseen? Only a pipe without a name can be asked.
bool other_side_is_open(const OpenFile& file) {
  pollfd poll{.fd = file.held.get(), .events = 0, .revents = 0};
  if (::poll(&poll, 1, 0) < 0) return true;
  return (poll.revents & (POLLHUP | POLLERR)) == 0;
}

const OutsideHolder* outside_holder(const OpenFile& file, const OpenFileTable& tree) {
  if (!file.inode->has_reader()) return tree.outside.reader(file.link);
  if (!file.inode->has_writer()) return tree.outside.writer(file.link);
  const auto all = tree.outside.of(file.link);
  return all.empty() ? nullptr : &all.front();
}

}  // namespace

PipePeer find_pipe_peer(const OpenFile& file, const OpenFileTable& tree) {
  const bool both = file.inode->has_reader() && file.inode->has_writer();
  if (outside_holder(file, tree) != nullptr) return both ? PipePeer::kShared : PipePeer::kOutside;
  if (both) return PipePeer::kTree;
  if (file.held && !has_name(file) && other_side_is_open(file)) return PipePeer::kOutside;
  return PipePeer::kNobody;
}

std::string describe_outside(const OpenFile& file, const OpenFileTable& tree) {
  const OutsideHolder* const holder = outside_holder(file, tree);
  if (holder == nullptr) return "a process that we may not look at has the other end";
  return fmt::format("{} {} it", holder->to_string(), holder->reads ? holder->writes ? "has" : "reads" : "writes");
}

bool claims_pipe_end(const OpenFile& file, const OpenFileTable&) {
  return S_ISFIFO(file.stat.st_mode) && !file.is_path_only();
}

std::optional<Obstacle> pipe_end_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  if (find_pipe_peer(file, tree) == PipePeer::kShared) {
    return file.obstacle(
        Errc::kExternalPeer,
        fmt::format("the program has both ends of this pipe, but {} too", describe_outside(file, tree)),
        "checkpoint the process that started both");
  }
  if (keeps_name(file)) return name_obstacle(file, tree);
  return std::nullopt;
}

Result<void> checkpoint_pipe(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenInode& inode = *static_cast<OpenInode*>(object);
  const auto readable = std::ranges::find_if(inode.files, [](const OpenFile* file) { return file->reads(); });
  const OpenFile& file = readable != inode.files.end() ? **readable : *inode.files.front();
  const int capacity = ::fcntl(file.held.get(), F_GETPIPE_SZ);
  if (capacity < 0) return Error::from_errno(errno, "ask for the size of a pipe");
  const bool packets = std::ranges::any_of(
      inode.files, [](const OpenFile* end) { return end->writes() && (end->info.flags & O_DIRECT) != 0; });
  PipeContents contents = STASIS_TRY(copy_contents(file.held.get(), packets ? PipeMode::kPacket : PipeMode::kStream));
  return ctx.write_object(ref, kind::kPipe,
                          PipeRecord{.capacity = static_cast<std::uint32_t>(capacity),
                                     .contents = std::move(contents.bytes),
                                     .packets = std::move(contents.packets),
                                     .mode = file.stat.st_mode,
                                     .uid = file.stat.st_uid,
                                     .gid = file.stat.st_gid,
                                     .fifo = keeps_name(file) ? find_name(file).path : ""});
}

Result<void> checkpoint_pipe_end(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const ObjRef pipe = STASIS_TRY(ctx.objects.checkpoint_obj(context, file.inode, kind::kPipe));
  return ctx.write_object(ref, kind::kPipeEnd, PipeEndRecord{.pipe = pipe, .flags = file.info.flags});
}

namespace {

Result<void> open_fifo(const PipeRecord& record, const RestartContext& ctx, RestoredPipe& pipe) {
  const UniqueFd look = STASIS_TRY(ctx.open_path(record.fifo, O_PATH));
  struct ::stat stat{};
  if (::fstat(look.get(), &stat) != 0) return Error::from_errno(errno, "fstat " + record.fifo);
  if (!S_ISFIFO(stat.st_mode)) return Error(Errc::kFileChanged, fmt::format("{} is no FIFO any more", record.fifo));
  UniqueFd both_ends = STASIS_TRY(ctx.open_path(record.fifo, O_RDWR | O_NONBLOCK));
  pipe.read_end = STASIS_TRY(ctx.park(std::move(both_ends)));
  int bytes = 0;
  if (::ioctl(pipe.read_end.get(), FIONREAD, &bytes) != 0) return Error::from_errno(errno, "look into " + record.fifo);
  if (bytes == 0) return {};
  return Error(Errc::kFileChanged, fmt::format("the FIFO {} is in use: {} bytes lie in it", record.fifo, bytes));
}

Result<void> make_pipe(const PipeRecord& record, const RestartContext& ctx, RestoredPipe& pipe) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return Error::from_errno(errno, "make a pipe");
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  pipe.read_end = STASIS_TRY(ctx.park(std::move(read_end)));
  pipe.write_end = STASIS_TRY(ctx.park(std::move(write_end)));
  // Only /dev/fd and fstat(2) show these, so that it is no failure where we may not set them.
  struct ::stat stat{};
  if (::fstat(pipe.read_end.get(), &stat) != 0) return Error::from_errno(errno, "fstat of a pipe");
  const bool chowned = (stat.st_uid == record.uid && stat.st_gid == record.gid) ||
                       ::fchown(pipe.read_end.get(), record.uid, record.gid) == 0;
  const bool chmoded = stat.st_mode == record.mode || ::fchmod(pipe.read_end.get(), record.mode & 07777) == 0;
  if (!chowned || !chmoded) log::info("pipe", "owner or mode of a pipe could not be set");
  return {};
}

Result<void> set_capacity(const PipeRecord& record, int fd) {
  if (::fcntl(fd, F_GETPIPE_SZ) == static_cast<int>(record.capacity)) return {};
  if (::fcntl(fd, F_SETPIPE_SZ, record.capacity) == static_cast<int>(record.capacity)) return {};
  return Error::from_errno(errno, fmt::format("give a pipe its size of {} bytes", record.capacity))
      .with_help("raise /proc/sys/fs/pipe-max-size or /proc/sys/fs/pipe-user-pages-soft, or run as root");
}

}  // namespace

Result<void*> restore_pipe(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const PipeRecord record = STASIS_TRY(ctx.image.read<PipeRecord>());
  auto pipe = std::make_unique<RestoredPipe>();
  STASIS_TRY(record.fifo.empty() ? make_pipe(record, ctx, *pipe) : open_fifo(record, ctx, *pipe));
  const int write_end = pipe->write_end ? pipe->write_end.get() : pipe->read_end.get();
  STASIS_TRY(set_capacity(record, write_end));
  STASIS_TRY(put_contents(write_end, {record.contents, record.packets}));
  return to_object(std::move(pipe));
}

Result<void*> restore_pipe_end(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const PipeEndRecord record = STASIS_TRY(ctx.image.read<PipeEndRecord>());
  const RestoredPipe* const pipe = STASIS_TRY(fetch_restored<RestoredPipe>(ctx.objects, record.pipe, kind::kPipe));
  const int access = static_cast<int>(record.flags) & O_ACCMODE;
  auto end = std::make_unique<RestoredFile>();
  // What pipe(2) made has not the mark of what open(2) makes, and there is one such description of each end.
  if ((record.flags & kLargeFile) == 0 && access != O_RDWR && pipe->write_end) {
    end->fd = STASIS_TRY(ctx.park_duplicate(access == O_RDONLY ? pipe->read_end.get() : pipe->write_end.get()));
  } else {
    const std::string name = fmt::format("/proc/self/fd/{}", pipe->read_end.get());
    UniqueFd opened = STASIS_TRY(open_at(AT_FDCWD, name, access | O_NONBLOCK));
    end->fd = STASIS_TRY(ctx.park(std::move(opened)));
  }
  if (::fcntl(end->fd.get(), F_SETFL, static_cast<int>(record.flags) & kSettable) != 0) {
    return Error::from_errno(errno, "set the flags of a pipe");
  }
  return to_object(std::move(end));
}

}  // namespace stasis
