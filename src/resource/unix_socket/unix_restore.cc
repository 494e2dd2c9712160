// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/log.h"
#include "kernel/socket_queue.h"
#include "kernel/unix_name.h"
#include "resource/file_kinds.h"
#include "resource/open_file/anonymous_file.h"
#include "resource/unix_socket/unix_socket.h"

namespace stasis {
namespace {

constexpr std::uint8_t kForReading = 1;
constexpr std::uint8_t kForWriting = 2;

// A name from an image gives no access that its owner has not.
Result<RestartContext::Rights> take_rights(const ImageOwner& owner) {
  if (owner.trust == ImageTrust::kCaller) return RestartContext::Rights();
  return RestartContext::Rights(STASIS_TRY(kernel::ScopedFileCredentials::take({owner.uid, owner.gid, owner.groups})));
}

Result<UniqueFd> make_socket(UnixType type) {
  UniqueFd fd(::socket(AF_UNIX, static_cast<int>(type) | SOCK_CLOEXEC, 0));
  if (!fd) return Error::from_errno(errno, "make a unix socket");
  return fd;
}

Result<void> bind_to(int fd, std::string_view name) {
  const auto address = STASIS_TRY(kernel::UnixAddress::of(name));
  if (::bind(fd, address.get(), address.length) == 0) return {};
  const int code = errno;
  Error error = Error::from_errno(code, fmt::format("bind a socket to {}", kernel::printable_unix_name(name)));
  return code == EADDRINUSE ? std::move(error).with_code(Errc::kExternalPeer).with_help("end who uses that name")
                            : std::move(error);
}

Result<void> connect_by(int fd, std::string_view name) {
  const auto address = STASIS_TRY(kernel::UnixAddress::of(name));
  if (::connect(fd, address.get(), address.length) == 0) return {};
  return Error::from_errno(errno, fmt::format("connect to {}", kernel::printable_unix_name(name)))
      .with_code(Errc::kExternalPeer);
}

// In the present working directory: makes room for a socket's file.
Result<void> remove_dead_file(const std::string& path) {
  struct ::stat stat{};
  if (::lstat(path.c_str(), &stat) != 0) {
    if (errno == ENOENT) return {};
    return Error::from_errno(errno, "look at " + path);
  }
  if (!S_ISSOCK(stat.st_mode)) {
    return Error(Errc::kFileChanged, fmt::format("{} was the program's socket and is something else now", path));
  }
  const bool used =
      STASIS_TRY(kernel::is_unix_socket_file_in_use(kernel::UnixSocketFile::of(stat.st_ino, stat.st_dev)));
  if (used) {
    return Error(Errc::kFileChanged, fmt::format("the socket {} is in use by another process", path))
        .with_help("end that process first");
  }
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return Error::from_errno(errno, "remove the dead socket " + path);
}

// Where a name is looked up: of a relative one its directory, of an absolute one the root (of a process in a chroot).
Result<void> enter(const UniqueFd& directory, std::string_view name) {
  if (!directory) return {};
  if (::fchdir(directory.get()) != 0) return Error::from_errno(errno, "enter the directory of a socket");
  if (!name.starts_with('/') || ::chroot(".") == 0) return {};
  return Error::from_errno(errno, "enter the root directory of a socket");
}

Result<void> check(const UnixSocketRecord& record) {
  const bool path = !record.name.empty() && record.name.front() != '\0';
  const bool wants_path = record.place == UnixPlace::kFile || record.place == UnixPlace::kDetached;
  if ((wants_path && !path) || (record.place == UnixPlace::kAbstract && (path || record.name.empty()))) {
    return Error(Errc::kBadImage, "the name of a unix socket is malformed");
  }
  if (record.side > 1) return Error(Errc::kBadImage, "a unix socket has a third side");
  if (record.role != UnixRole::kLinked && !record.queue.empty() && record.type != UnixType::kDatagram) {
    if (record.role != UnixRole::kReconnect) return Error(Errc::kBadImage, "a queue of a socket that is not connected");
  }
  return {};
}

}  // namespace

Result<void*> restore_unix_socket(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  UnixSocketRecord record = STASIS_TRY(ctx.image.read<UnixSocketRecord>());
  STASIS_TRY(check(record));
  auto socket = std::make_unique<RestoredUnixSocket>(std::move(record));
  STASIS_TRY(socket->create(ctx));
  // The hash keeps the object until the deferred works have run.
  STASIS_TRY(ctx.deferred.add([&ctx, &socket = *socket] { return socket.bind(ctx); }));
  return to_object(std::move(socket));
}

Result<void> RestoredUnixSocket::create(RestartContext& ctx) {
  if (record_.role == UnixRole::kLinked) {
    link_ = STASIS_TRY(fetch_restored<RestoredUnixLink>(ctx.objects, record_.link, kind::kUnixLink));
    if (link_->type != record_.type) return Error(Errc::kBadImage, "a unix socket is of another type than its link");
    fd = STASIS_TRY(ctx.park_duplicate(link_->ends[record_.side].get()));
    return {};
  }
  UniqueFd made = STASIS_TRY(make_socket(record_.type));
  fd = STASIS_TRY(ctx.park(std::move(made)));
  return {};
}

void RestoredUnixSocket::replace(UniqueFd other) {
  fd = std::move(other);
  replaced_ = true;
}

Result<void> RestoredUnixSocket::bind(RestartContext& ctx) {
  if (replaced_) return {};
  STASIS_TRY(restore_socket_options(fd.get(), record_.options, OptionPhase::kBeforeBind));
  switch (record_.place) {
    case UnixPlace::kNone:
      break;
    case UnixPlace::kAbstract:
      STASIS_TRY(bind_to(fd.get(), record_.name));
      break;
    case UnixPlace::kFile:
      STASIS_TRY(bind_file(ctx));
      break;
    case UnixPlace::kDetached:
      STASIS_TRY(bind_detached());
      break;
  }
  if (record_.role == UnixRole::kListening && ::listen(fd.get(), static_cast<int>(record_.backlog)) != 0) {
    return Error::from_errno(errno, "listen");
  }
  return ctx.deferred.add([this, &ctx] { return fill(ctx); });
}

Result<void> RestoredUnixSocket::bind_file(RestartContext& ctx) {
  UniqueFd directory;
  if (!record_.directory.empty()) {
    directory = STASIS_TRY(ctx.open_path(record_.directory, O_PATH | O_DIRECTORY));
    directory_ = UniqueFd(::fcntl(directory.get(), F_DUPFD_CLOEXEC, 0));
    if (!directory_) return Error::from_errno(errno, "duplicate the directory of a socket");
  }
  struct ::stat own{};
  if (::fstat(fd.get(), &own) != 0) return Error::from_errno(errno, "fstat of a socket");
  // bind(2) gives the file the mode of the socket.
  ::fchmod(fd.get(), record_.mode & 07777);
  const auto bound = kernel::run_with_own_directory([&]() -> Result<void> {
    STASIS_TRY(enter(directory, record_.name));
    const auto rights = STASIS_TRY(take_rights(ctx.owner));
    STASIS_TRY(remove_dead_file(record_.name));
    STASIS_TRY(bind_to(fd.get(), record_.name));
    struct ::stat made{};
    if (::lstat(record_.name.c_str(), &made) != 0) return Error::from_errno(errno, "look at " + record_.name);
    const bool same = made.st_uid == record_.uid && made.st_gid == record_.gid;
    if (!same && ::lchown(record_.name.c_str(), record_.uid, record_.gid) != 0) {
      log::info("unix_socket", "the owner of {} could not be set", record_.name);
    }
    return {};
  });
  ::fchmod(fd.get(), own.st_mode & 07777);
  STASIS_TRY(bound);
  return ctx.undo.add([name = record_.name, directory = std::move(directory), owner = ctx.owner] {
    // Nothing more can be done about a failure here.
    static_cast<void>(kernel::run_with_own_directory([&]() -> Result<void> {
      STASIS_TRY(enter(directory, name));
      const auto rights = STASIS_TRY(take_rights(owner));
      ::unlink(name.c_str());
      return {};
    }));
  });
}

Result<void> RestoredUnixSocket::bind_detached() {
  root_ = STASIS_TRY(kernel::PrivateRoot::create());
  return root_->run([&]() -> Result<void> {
    STASIS_TRY(kernel::make_parent_directories(record_.name));
    return bind_to(fd.get(), record_.name);
  });
}

// A socket to send a datagram from when its sender is not in the tree, with the sender's name where that can be had.
Result<UniqueFd> RestoredUnixSocket::stand_in_sender(const UnixMessageRecord& message) const {
  UniqueFd sender = STASIS_TRY(make_socket(record_.type));
  if (message.sender_name.empty()) return sender;
  Result<void> bound;
  if (message.sender_name.front() == '\0') {
    bound = bind_to(sender.get(), message.sender_name);
  } else {
    const auto root = STASIS_TRY(kernel::PrivateRoot::create());
    bound = root.run([&]() -> Result<void> {
      STASIS_TRY(kernel::make_parent_directories(message.sender_name));
      return bind_to(sender.get(), message.sender_name);
    });
  }
  if (!bound) log::info("unix_socket", "a queued datagram loses its sender's name: {}", bound.error().message());
  return sender;
}

Result<void> RestoredUnixSocket::send(int sender, bool to_name, const UnixMessageRecord& message,
                                      const ObjHash& objects) const {
  std::vector<int> files;
  for (const InFlightRecord& in_flight : message.files) {
    if (find_file_kind(in_flight.kind) == nullptr) {
      return Error(Errc::kBadImage, fmt::format("a descriptor in flight is of kind {}", in_flight.kind));
    }
    const auto* const file = STASIS_TRY(fetch_restored<RestoredFile>(objects, in_flight.file, in_flight.kind));
    files.push_back(file->descriptor_for(-1));
    if (files.back() < 0) return file->unbound(-1);
  }
  std::optional<ucred> credentials;
  if (message.credentials) {
    credentials = ucred{message.credentials->pid, message.credentials->uid, message.credentials->gid};
  }
  std::span<const std::byte> rest = message.bytes;
  std::optional<LargeSendBuffer> large;
  do {
    const kernel::OutgoingMessage outgoing{.bytes = rest,
                                           .files = files,
                                           .credentials = credentials ? &*credentials : nullptr,
                                           .destination = to_name ? std::string_view(record_.name) : ""};
    const auto sent = kernel::send_message(sender, outgoing);
    if (sent) {
      if (record_.type != UnixType::kStream && *sent != rest.size()) {
        return Error(Errc::kSystem, "a datagram was cut");
      }
      rest = rest.subspan(*sent);
      files.clear();
    } else if (sent.error().code() == Errc::kBusy && !large) {
      large.emplace(sender, message.bytes.size() + 1048576);
    } else if (credentials && (sent.error().sys_errno() == ESRCH || sent.error().sys_errno() == EPERM)) {
      log::info("unix_socket", "a queued message loses its credentials (pid {})", credentials->pid);
      credentials.reset();
    } else {
      return sent.error();
    }
  } while (!rest.empty());
  return {};
}

Result<void> RestoredUnixSocket::put(const UnixMessageRecord& message, const RestartContext& ctx) const {
  if (link_ != nullptr) {
    const int far_end = link_->ends[record_.side == 0 ? 1 : 0].get();
    return send(far_end, false, message, ctx.objects);
  }
  if (message.sender && !root_ && !record_.name.empty()) {
    const auto* const sender =
        STASIS_TRY(fetch_restored<RestoredUnixSocket>(ctx.objects, message.sender, kind::kUnixSocket));
    if (!sender->replaced_) {
      return where_named([&] { return send(sender->fd.get(), true, message, ctx.objects); });
    }
  }
  const UniqueFd sender = STASIS_TRY(stand_in_sender(message));
  STASIS_TRY(connect_to(sender.get(), record_.name));
  return send(sender.get(), false, message, ctx.objects);
}

Result<void> RestoredUnixSocket::where_named(const std::function<Result<void>()>& action) const {
  if (root_) return root_->run(action);
  if (!directory_) return action();
  return kernel::run_with_own_directory([&]() -> Result<void> {
    STASIS_TRY(enter(directory_, record_.name));
    return action();
  });
}

// By this socket's own name.
Result<void> RestoredUnixSocket::connect_to(int other, std::string_view name) const {
  return where_named([&] { return connect_by(other, name); });
}

Result<void> RestoredUnixSocket::fill(RestartContext& ctx) {
  if (replaced_) return {};
  for (const UnixMessageRecord& message : record_.queue) STASIS_TRY(put(message, ctx));
  for (const ObjRef ref : record_.pending) {
    const auto* const client = STASIS_TRY(fetch_restored<RestoredUnixSocket>(ctx.objects, ref, kind::kUnixSocket));
    if (client->replaced_) continue;
    STASIS_TRY(connect_to(client->fd.get(), record_.name));
  }
  return ctx.deferred.add([this, &ctx] { return finish(ctx); });
}

Result<void> RestoredUnixSocket::connect_orphan() const {
  const UniqueFd gone = STASIS_TRY(make_socket(record_.type));
  if (!record_.peer_name.empty() && record_.peer_name.front() != '\0') {
    const auto root = STASIS_TRY(kernel::PrivateRoot::create());
    return root.run([&]() -> Result<void> {
      STASIS_TRY(kernel::make_parent_directories(record_.peer_name));
      STASIS_TRY(bind_to(gone.get(), record_.peer_name));
      return connect_by(fd.get(), record_.peer_name);
    });
  }
  // An abstract name that somebody has by now, or none, is replaced by one of the kernel's choice.
  const sa_family_t family = AF_UNIX;
  if (record_.peer_name.empty() || !bind_to(gone.get(), record_.peer_name)) {
    if (::bind(gone.get(), reinterpret_cast<const sockaddr*>(&family), sizeof family) != 0) {
      return Error::from_errno(errno, "bind a socket");
    }
  }
  return connect_by(fd.get(), STASIS_TRY(kernel::unix_name_of(gone.get())));
}

Result<void> RestoredUnixSocket::connect_peer(RestartContext& ctx) const {
  switch (record_.role) {
    case UnixRole::kConnected: {
      const auto* const peer =
          STASIS_TRY(fetch_restored<RestoredUnixSocket>(ctx.objects, record_.peer, kind::kUnixSocket));
      return peer->replaced_ ? Result<void>() : peer->connect_to(fd.get(), record_.peer_name);
    }
    case UnixRole::kOrphan:
      return connect_orphan();
    case UnixRole::kReconnect:
      return kernel::run_with_own_directory([&]() -> Result<void> {
        const auto rights = STASIS_TRY(take_rights(ctx.owner));
        return connect_by(fd.get(), record_.peer_name);
      });
    default:
      return {};
  }
}

Result<void> RestoredUnixSocket::finish(RestartContext& ctx) {
  if (replaced_) return {};
  STASIS_TRY(connect_peer(ctx));
  // A far end that is closed with something unread in it leaves an ECONNRESET.
  if (record_.reset && link_ != nullptr && ::send(fd.get(), "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) {
    return Error::from_errno(errno, "prepare the reset of a connection");
  }
  if (record_.shutdown != 0 && !record_.reset) {
    const int how = record_.shutdown == kForReading ? SHUT_RD : record_.shutdown == kForWriting ? SHUT_WR : SHUT_RDWR;
    if (::shutdown(fd.get(), how) != 0) return Error::from_errno(errno, "shut down a unix socket");
  }
  STASIS_TRY(restore_socket_options(fd.get(), record_.options, OptionPhase::kAtTheEnd));
  return set_status_flags(fd.get(), record_.flags);
}

}  // namespace stasis
