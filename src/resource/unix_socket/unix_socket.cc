// SPDX-License-Identifier: Apache-2.0
#include "resource/unix_socket/unix_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/log.h"
#include "kernel/proc_dir.h"
#include "kernel/unix_name.h"
#include "resource/checkpoint_context.h"
#include "resource/file_kinds.h"

namespace stasis {
namespace {

constexpr std::string_view kExternalHelp = "--unix-external close|reconnect, or checkpoint a process above both";

bool is_listening(const OpenFile& file) {
  constexpr int kListen = 10;  // TCP_LISTEN
  return file.unix_socket && file.unix_socket->state == kListen;
}

std::optional<Obstacle> outside_obstacle(const OpenFile& file, const OpenFileTable& tree, UnixExternalPolicy policy) {
  if (policy == UnixExternalPolicy::kClose) return std::nullopt;
  if (policy == UnixExternalPolicy::kRefuse) {
    return file.obstacle(Errc::kExternalPeer,
                         fmt::format("it leads out of the process tree: {}", describe_unix_peer(file, tree)),
                         std::string(kExternalHelp));
  }
  if (!file.held) return std::nullopt;
  const auto name = kernel::unix_peer_name_of(file.held.get());
  const auto root = read_link(AT_FDCWD, fmt::format("/proc/{}/root", file.holders.front().task().value()));
  if (name && name->starts_with('/') && root && *root != "/") {
    return file.obstacle(Errc::kExternalPeer,
                         fmt::format("it leads to {}, by a name inside of {}", describe_unix_peer(file, tree), *root),
                         "--unix-external close");
  }
  if (!name || name->empty()) {
    return file.obstacle(Errc::kExternalPeer,
                         fmt::format("it leads to {}: nothing to reconnect to", describe_unix_peer(file, tree)),
                         "--unix-external close");
  }
  if (file.queue.empty() || file.unix_socket->type == SOCK_DGRAM) return std::nullopt;
  return file.obstacle(Errc::kExternalPeer, "it holds unread data of a connection to the outside",
                       "try again when the program has read it, or --unix-external close");
}

std::optional<Obstacle> listening_obstacle(const OpenFile& file, const OpenFileTable& tree, UnixExternalPolicy policy) {
  if (policy != UnixExternalPolicy::kRefuse) return std::nullopt;
  for (const std::uint64_t client : file.unix_socket->unaccepted) {
    const std::string why = describe_waiting(client, tree);
    if (!why.empty()) {
      return file.obstacle(Errc::kExternalPeer, why, "try again when it is accepted, or --unix-external close");
    }
  }
  return std::nullopt;
}

}  // namespace

bool claims_unix_socket(const OpenFile& file, const OpenFileTable&) {
  return file.unix_socket.has_value() && S_ISSOCK(file.stat.st_mode) && !file.is_path_only();
}

std::optional<Obstacle> unix_socket_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                             const CheckpointPolicy& policy) {
  if (file.unreadable) {
    return file.obstacle(Errc::kUnsupportedObject, file.unreadable->message(), file.unreadable->help());
  }
  const UnixRelation relation = find_unix_relation(file, tree);
  if (relation.outside) return outside_obstacle(file, tree, policy.unix_external);
  if (const auto also = tree.outside.of(file.link);
      !also.empty() && policy.unix_external == UnixExternalPolicy::kRefuse) {
    return file.obstacle(Errc::kExternalPeer, fmt::format("{} has this socket too", also.front().to_string()),
                         std::string(kExternalHelp));
  }
  if (is_listening(file)) return listening_obstacle(file, tree, policy.unix_external);
  if (relation.role == UnixRole::kPending && file.unix_socket->send_queue > 0) {
    return file.obstacle(Errc::kUnsupportedObject,
                         "it has sent data on a connection that is not accepted yet, where nobody can read it",
                         "try again when the connection is accepted");
  }
  return std::nullopt;
}

namespace {

std::vector<std::int32_t> ids_of(HostPid pid) {
  const auto proc = kernel::ProcDir::open(pid);
  const auto status = proc ? proc->status() : Result<kernel::ProcStatus>(proc.error());
  return status ? status->ns_tgid : std::vector<std::int32_t>();
}

// A process's id as the tree itself sees it. One that is gone has an id of ours only: where the tree has a pid
// namespace of its own, the process that has the socket stands for it (a link that Stasis made there had a maker that
// is gone).
UnixCredentialsRecord to_record(const ucred& credentials, const OpenFile* socket) {
  UnixCredentialsRecord record{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid};
  if (credentials.pid <= 0) return record;
  auto ids = ids_of(HostPid(credentials.pid));
  if (ids.empty() && socket != nullptr) {
    ids = ids_of(socket->pid());
    if (ids.size() == 1) return record;
  }
  if (!ids.empty()) record.pid = ids.back();
  return record;
}

Result<InFlightRecord> save_in_flight(OpenFile& file, void* context) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const FileKind* const kind = find_file_kind(file, ctx.files);
  if (kind == nullptr) {
    return file.obstacle(Errc::kUnsupportedObject, "a descriptor of this kind can't be saved").to_error();
  }
  const ObjRef ref = STASIS_TRY(ctx.objects.checkpoint_obj(context, &file, kind->ops.type));
  return InFlightRecord{.file = ref, .kind = kind->ops.type};
}

// The datagram socket of the tree with that name.
OpenFile* find_sender(std::string_view name, const OpenFileTable& tree) {
  if (name.empty()) return nullptr;
  for (const auto& file : tree.files) {
    if (!file->unix_socket || file->unix_socket->type != SOCK_DGRAM || !file->held) continue;
    const auto own = kernel::unix_name_of(file->held.get());
    if (own && *own == name) return file.get();
  }
  return nullptr;
}

Result<std::vector<UnixMessageRecord>> save_queue(const OpenFile& file, const UnixRelation& relation, void* context) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  std::vector<UnixMessageRecord> queue;
  if (relation.role == UnixRole::kReconnect && relation.outside &&
      ctx.policy.unix_external == UnixExternalPolicy::kReconnect) {
    if (!file.queue.empty()) log::info("unix_socket", "{}: datagrams from outside are dropped", file.link);
    return queue;
  }
  for (const SocketMessage& message : file.queue) {
    UnixMessageRecord record{.bytes = message.bytes, .files = {}, .sender_name = message.sender};
    for (OpenFile* const in_flight : message.files) {
      record.files.push_back(STASIS_TRY(save_in_flight(*in_flight, context)));
    }
    if (message.credentials) record.credentials = to_record(*message.credentials, relation.peer);
    OpenFile* const sender = relation.role == UnixRole::kLinked ? nullptr : find_sender(message.sender, ctx.files);
    if (sender != nullptr) {
      record.sender = STASIS_TRY(ctx.objects.checkpoint_obj(context, sender, kind::kUnixSocket));
    }
    queue.push_back(std::move(record));
  }
  return queue;
}

struct FoundPlace {
  UnixPlace place = UnixPlace::kDetached;
  std::string directory;
  struct ::stat stat{};
};

// Is the file at a path the one that the socket was bound to? (Device numbers of some file systems are not told.)
bool is_file_of(const OpenFile& socket, const struct ::stat& stat) {
  return S_ISSOCK(stat.st_mode) && socket.unix_socket->file &&
         socket.unix_socket->file->inode == static_cast<std::uint32_t>(stat.st_ino);
}

FoundPlace find_place(const OpenFile& file, const std::string& name) {
  FoundPlace found;
  if (name.empty() || name.front() == '\0') {
    found.place = name.empty() ? UnixPlace::kNone : UnixPlace::kAbstract;
    return found;
  }
  const bool absolute = name.front() == '/';
  for (const FileHolder& holder : file.holders) {
    const std::string from = fmt::format("/proc/{}/{}", holder.task().value(), absolute ? "root" : "cwd");
    if (::lstat((from + "/" + name).c_str(), &found.stat) != 0 || !is_file_of(file, found.stat)) continue;
    auto directory = read_link(AT_FDCWD, from);
    if (!directory) continue;
    if (!absolute || *directory != "/") found.directory = *std::move(directory);
    found.place = UnixPlace::kFile;
    return found;
  }
  return found;
}

bool error_waits(const OpenFile& file) {
  pollfd poll{.fd = file.held.get(), .events = 0, .revents = 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & POLLERR) != 0;
}

OpenInode* link_key(const OpenFile& file, const OpenFile* peer) {
  return peer == nullptr || file.stat.st_ino < peer->stat.st_ino ? file.inode : peer->inode;
}

// Which of the two was accepted by a listening socket: the one that has a listener's name, or else a name at all.
bool was_accepted(const OpenFile& file, const OpenFileTable& tree) {
  const auto name = kernel::unix_name_of(file.held.get());
  if (!name || name->empty()) return false;
  const auto peer_name = kernel::unix_peer_name_of(file.held.get());
  if (!peer_name || peer_name->empty()) return true;
  return std::ranges::any_of(tree.files, [&](const auto& other) {
    if (!is_listening(*other) || !other->held) return false;
    const auto own = kernel::unix_name_of(other->held.get());
    return own && *own == *name;
  });
}

// The side of the link that `file` is.
std::uint8_t side_of(const OpenFile& file, const UnixRelation& relation, const OpenFileTable& tree) {
  const bool accepted = was_accepted(file, tree);
  if (relation.peer == nullptr) return accepted ? 1 : 0;
  if (accepted != was_accepted(*relation.peer, tree)) return accepted ? 1 : 0;
  return file.inode == link_key(file, relation.peer) ? 0 : 1;
}

Result<void> save_link(const OpenFile& file, const UnixRelation& relation, void* context, UnixSocketRecord& record) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  record.role = UnixRole::kLinked;
  record.link = STASIS_TRY(ctx.objects.checkpoint_obj(context, link_key(file, relation.peer), kind::kUnixLink));
  record.side = side_of(file, relation, ctx.files);
  record.reset = relation.peer == nullptr && error_waits(file);
  return {};
}

Result<void> save_relation(const OpenFile& file, const UnixRelation& relation, void* context,
                           UnixSocketRecord& record) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const bool datagram = record.type == UnixType::kDatagram;
  if (relation.outside && ctx.policy.unix_external == UnixExternalPolicy::kClose) {
    // As if the outside had closed its end now.
    if (!datagram) return save_link(file, relation, context, record);
    record.role = UnixRole::kOrphan;
    return {};
  }
  switch (relation.role) {
    case UnixRole::kListening:
      record.backlog = file.unix_socket->send_queue;
      for (const std::uint64_t inode : file.unix_socket->unaccepted) {
        OpenFile* const client = ctx.files.find_socket(inode);
        if (client == nullptr) continue;  // from outside, and the policy allows it
        record.pending.push_back(STASIS_TRY(ctx.objects.checkpoint_obj(context, client, kind::kUnixSocket)));
      }
      return {};
    case UnixRole::kLinked:
      return save_link(file, relation, context, record);
    case UnixRole::kConnected:
      record.peer = STASIS_TRY(ctx.objects.checkpoint_obj(context, relation.peer, kind::kUnixSocket));
      [[fallthrough]];
    case UnixRole::kOrphan:
    case UnixRole::kReconnect:
      record.peer_name = STASIS_TRY(kernel::unix_peer_name_of(file.held.get()));
      return {};
    case UnixRole::kSingle:
    case UnixRole::kPending:
      return {};
  }
  return {};
}

}  // namespace

Result<void> checkpoint_unix_socket(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const UnixRelation relation = find_unix_relation(file, ctx.files);
  UnixSocketRecord record{.type = static_cast<UnixType>(file.unix_socket->type),
                          .role = relation.role,
                          .flags = file.info.flags,
                          .name = STASIS_TRY(kernel::unix_name_of(file.held.get())),
                          .shutdown = file.unix_socket->shutdown};
  STASIS_TRY(save_relation(file, relation, context, record));
  const FoundPlace found = find_place(file, record.name);
  const bool named_by_link = record.role == UnixRole::kLinked && record.type != UnixType::kDatagram;
  record.place = named_by_link ? UnixPlace::kNone : found.place;
  if (found.place == UnixPlace::kFile) {
    record.directory = found.directory;
    record.mode = found.stat.st_mode;
    record.uid = found.stat.st_uid;
    record.gid = found.stat.st_gid;
  }
  record.queue = STASIS_TRY(save_queue(file, relation, context));
  record.options = STASIS_TRY(save_socket_options(file.held.get()));
  return ctx.write_object(ref, kind::kUnixSocket, record);
}

Result<void> checkpoint_unix_link(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenInode*>(object)->files.front();
  const UnixRelation relation = find_unix_relation(file, ctx.files);
  const bool first = side_of(file, relation, ctx.files) == 0;
  UnixLinkRecord record{.type = static_cast<UnixType>(file.unix_socket->type)};
  // The names of datagram sockets are their own: they can be reached by them.
  if (record.type != UnixType::kDatagram) {
    (first ? record.name0 : record.name1) = STASIS_TRY(kernel::unix_name_of(file.held.get()));
    (first ? record.name1 : record.name0) = STASIS_TRY(kernel::unix_peer_name_of(file.held.get()));
  }
  const auto credentials_of_peer = [](const OpenFile& socket,
                                      const OpenFile* peer) -> std::optional<UnixCredentialsRecord> {
    ucred credentials{};
    socklen_t length = sizeof credentials;
    if (::getsockopt(socket.held.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return std::nullopt;
    return to_record(credentials, peer);
  };
  (first ? record.credentials1 : record.credentials0) = credentials_of_peer(file, relation.peer);
  if (relation.peer != nullptr) {
    (first ? record.credentials0 : record.credentials1) = credentials_of_peer(*relation.peer, &file);
  }
  return ctx.write_object(ref, kind::kUnixLink, record);
}

}  // namespace stasis
