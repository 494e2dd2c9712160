// SPDX-License-Identifier: Apache-2.0
#include "resource/message_queue/message_queue.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <mqueue.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "base/file.h"
#include "base/log.h"
#include "kernel/proc_text.h"
#include "resource/checkpoint_context.h"
#include "resource/insist.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

constexpr long kMqueueMagic = 0x19800202;  // include/uapi/linux/magic.h
constexpr off_t kTextSize = 80;            // FILENT_SIZE of ipc/mqueue.c: what every queue shows as its size
constexpr std::string_view kDeleted = " (deleted)";
constexpr std::uint64_t kMaxMessages = 65536,
                        kMaxMessageSize = std::uint64_t{16} << 20;  // HARD_MSGMAX, HARD_MSGSIZEMAX

// An opening of our own for reading and writing that does not wait.
Result<UniqueFd> open_both_ways(int fd) {
  return open_at(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd), O_RDWR | O_NONBLOCK);
}

Result<::mq_attr> attributes_of(int queue) {
  ::mq_attr attributes{};
  if (::mq_getattr(queue, &attributes) == 0) return attributes;
  return Error::from_errno(errno, "ask a message queue for its attributes");
}

// What was taken is in `messages` after an error, too.
Result<void> take_messages(int queue, const ::mq_attr& attributes, std::vector<QueuedMessageRecord>& messages) {
  std::vector<std::byte> buffer(static_cast<std::size_t>(attributes.mq_msgsize));
  for (long i = 0; i < attributes.mq_maxmsg; ++i) {
    unsigned priority = 0;
    auto* const bytes = reinterpret_cast<char*>(buffer.data());
    const ssize_t got = insist([&] { return ::mq_receive(queue, bytes, buffer.size(), &priority); });
    if (got < 0 && errno == EAGAIN) break;
    if (got < 0) return Error::from_errno(errno, "take a message out of a queue");
    messages.push_back({.priority = priority, .bytes = {buffer.begin(), buffer.begin() + got}});
  }
  return {};
}

Result<void> put_messages(int queue, std::span<const QueuedMessageRecord> messages) {
  Result<void> first;
  for (const QueuedMessageRecord& message : messages) {
    const auto* const bytes = reinterpret_cast<const char*>(message.bytes.data());
    const int sent = insist([&] { return ::mq_send(queue, bytes, message.bytes.size(), message.priority); });
    if (sent != 0 && first) first = Error::from_errno(errno, "put a message into a queue");
  }
  return first;
}

// What could not be taken then is taken now: what is put back would come behind it.
Result<void> put_back(int queue, const ::mq_attr& attributes, std::vector<QueuedMessageRecord>& messages) {
  auto rest = take_messages(queue, attributes, messages);
  auto put = put_messages(queue, messages);
  return put ? rest : put;
}

// "QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260": a read(2) of a queue shows its state.
bool somebody_waits(int queue) {
  const auto text = read_file(AT_FDCWD, fmt::format("/proc/self/fd/{}", queue));
  if (!text) return false;
  constexpr std::string_view kKey = "NOTIFY_PID:";
  const auto at = text->find(kKey);
  if (at == std::string::npos) return false;
  const auto digits = kernel::text::trim(std::string_view(*text).substr(at + kKey.size()));
  return !digits.starts_with('0');
}

std::string name_of(const OpenFile& file) {
  std::string name = file.link;
  if (name.ends_with(kDeleted)) name.resize(name.size() - kDeleted.size());
  // Where the file system of the queues is mounted, the name has that path before it.
  const auto slash = name.rfind('/');
  return slash == std::string::npos ? name : name.substr(slash);
}

}  // namespace

bool claims_message_queue(const OpenFile& file, const OpenFileTable&) {
  if (!S_ISREG(file.stat.st_mode) || file.stat.st_size != kTextSize || file.is_path_only()) return false;
  struct ::statfs fs{};
  const std::string path = file.held ? fmt::format("/proc/self/fd/{}", file.held.get())
                                     : fmt::format("/proc/{}/fd/{}", file.holders.front().task().value(), file.fd());
  return ::statfs(path.c_str(), &fs) == 0 && fs.f_type == kMqueueMagic;
}

std::optional<Obstacle> message_queue_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                               const CheckpointPolicy&) {
  for (const OutsideHolder& holder : tree.outside.of(file.link)) {
    if (holder.inode != file.stat.st_ino) continue;
    return file.obstacle(Errc::kExternalPeer, fmt::format("{} has this message queue, too", holder.to_string()),
                         "checkpoint the process that started both");
  }
  if (!file.held || !somebody_waits(file.held.get())) return std::nullopt;
  return file.obstacle(Errc::kUnsupportedObject, "a process waits to be told of a message (mq_notify)");
}

Result<void> checkpoint_posix_queue(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenInode& inode = *static_cast<OpenInode*>(object);
  const OpenFile& file = inode.any();
  const UniqueFd queue = STASIS_TRY(open_both_ways(file.held.get()));
  const ::mq_attr attributes = STASIS_TRY(attributes_of(queue.get()));
  PosixQueueRecord record{.name = name_of(file),
                          .unlinked = file.stat.st_nlink == 0,
                          .mode = file.stat.st_mode,
                          .uid = file.stat.st_uid,
                          .gid = file.stat.st_gid,
                          .max_messages = static_cast<std::uint64_t>(attributes.mq_maxmsg),
                          .message_size = static_cast<std::uint64_t>(attributes.mq_msgsize),
                          .messages = {}};
  STASIS_TRY(take_and_put_back(
      "files", fmt::format("the message queue {}", record.name),
      [&] { return take_messages(queue.get(), attributes, record.messages); },
      [&] { return put_back(queue.get(), attributes, record.messages); }));
  return ctx.write_object(ref, kind::kPosixQueue, record);
}

Result<void> checkpoint_message_queue(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const ObjRef queue = STASIS_TRY(ctx.objects.checkpoint_obj(context, file.inode, kind::kPosixQueue));
  return ctx.write_object(ref, kind::kMessageQueue, MessageQueueRecord{.queue = queue, .flags = file.info.flags});
}

namespace {

Result<void> check(const PosixQueueRecord& record) {
  const bool named = record.name.size() > 1 && record.name.starts_with('/') &&
                     record.name.find('/', 1) == std::string::npos && record.name.find('\0') == std::string::npos;
  const bool sized = record.max_messages - 1 < kMaxMessages && record.message_size - 1 < kMaxMessageSize &&
                     record.messages.size() <= record.max_messages;
  if (!named || !sized) return Error(Errc::kBadImage, "a message queue of an impossible kind");
  return {};
}

Error explain(Error error) {
  if (error.sys_errno() != EINVAL && error.sys_errno() != EMFILE && error.sys_errno() != ENOSPC) return error;
  return std::move(error).with_help("raise fs.mqueue.msg_max, msgsize_max and queues_max, and ulimit -q");
}

// What a queue held when the program was killed gives way to what the image says; a restart that fails brings it back.
// By a descriptor: by then the name may be that of somebody else's.
Result<void> empty_queue(int queue, const std::string& name, const ::mq_attr& attributes, RestartContext& ctx) {
  struct Emptied {
    UniqueFd queue;
    std::vector<QueuedMessageRecord> messages;
    bool is_empty = false;
  };
  const auto emptied = std::make_shared<Emptied>();
  emptied->queue = STASIS_TRY(ctx.park_duplicate(queue));
  STASIS_TRY(ctx.undo.add([emptied, name, attributes]() -> Result<void> {
    std::vector<QueuedMessageRecord> ours;
    // What could not be taken then belongs behind what was.
    auto taken = take_messages(emptied->queue.get(), attributes, emptied->is_empty ? ours : emptied->messages);
    auto put = put_messages(emptied->queue.get(), emptied->messages);
    if (put && taken) return {};
    Error error = std::move(put ? taken : put).error();
    log::info("files", "what was in the message queue {} is not as it was: {}", name, error.to_string());
    return error;
  }));
  STASIS_TRY(take_messages(queue, attributes, emptied->messages));
  emptied->is_empty = true;
  return {};
}

// The queue as it was left, or a new one.
Result<UniqueFd> open_queue(const PosixQueueRecord& record, RestartContext& ctx) {
  const std::string name =
      record.unlinked ? fmt::format("/.stasis-{}-{}", ::getpid(), record.name.substr(1, 100)) : record.name;
  ::mq_attr wanted{};
  wanted.mq_maxmsg = static_cast<long>(record.max_messages);
  wanted.mq_msgsize = static_cast<long>(record.message_size);
  const auto rights = STASIS_TRY(ctx.take_rights());
  constexpr int kFlags = O_RDWR | O_NONBLOCK | O_CLOEXEC;
  UniqueFd queue(::mq_open(name.c_str(), kFlags | O_CREAT | O_EXCL, 0600, &wanted));
  if (queue) {
    if (record.unlinked && ::mq_unlink(name.c_str()) != 0) return Error::from_errno(errno, "unlink a message queue");
    if (!record.unlinked) STASIS_TRY(ctx.undo.add([name] { ::mq_unlink(name.c_str()); }));
    return queue;
  }
  if (errno != EEXIST || record.unlinked) {
    return explain(Error::from_errno(errno, fmt::format("make the message queue {}", record.name)));
  }
  queue.reset(::mq_open(name.c_str(), kFlags));
  if (!queue) return Error::from_errno(errno, fmt::format("open the message queue {}", record.name));
  const ::mq_attr found = STASIS_TRY(attributes_of(queue.get()));
  if (found.mq_maxmsg != wanted.mq_maxmsg || found.mq_msgsize != wanted.mq_msgsize) {
    return Error(Errc::kFileChanged, fmt::format("the message queue {} is another one now", record.name));
  }
  STASIS_TRY(empty_queue(queue.get(), name, found, ctx));
  return queue;
}

}  // namespace

Result<void*> restore_posix_queue(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const PosixQueueRecord record = STASIS_TRY(ctx.image.read<PosixQueueRecord>());
  STASIS_TRY(check(record));
  auto queue = std::make_unique<RestoredMapping>();
  UniqueFd fd = STASIS_TRY(open_queue(record, ctx));
  queue->fd = STASIS_TRY(ctx.park(std::move(fd)));
  struct ::stat stat{};
  if (::fstat(queue->fd.get(), &stat) != 0) return Error::from_errno(errno, "fstat of a message queue");
  if ((stat.st_uid != record.uid || stat.st_gid != record.gid) &&
      ::fchown(queue->fd.get(), record.uid, record.gid) != 0) {
    log::info("files", "the owner of the message queue {} can't be set", record.name);
  }
  if ((stat.st_mode & 07777) != (record.mode & 07777) && ::fchmod(queue->fd.get(), record.mode & 07777) != 0) {
    return Error::from_errno(errno, fmt::format("set the mode of the message queue {}", record.name));
  }
  STASIS_TRY(put_messages(queue->fd.get(), record.messages));
  return to_object(std::move(queue));
}

Result<void*> restore_message_queue(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const MessageQueueRecord record = STASIS_TRY(ctx.image.read<MessageQueueRecord>());
  const auto* const queue = STASIS_TRY(fetch_restored<RestoredMapping>(ctx.objects, record.queue, kind::kPosixQueue));
  auto file = std::make_unique<RestoredFile>();
  UniqueFd fd = STASIS_TRY(reopen(queue->fd.get(), record.flags, 0));
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  return to_object(std::move(file));
}

}  // namespace stasis
