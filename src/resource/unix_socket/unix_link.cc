// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cerrno>
#include <new>

#include "base/log.h"
#include "kernel/call_as.h"
#include "kernel/unix_name.h"
#include "resource/unix_socket/unix_socket.h"

namespace stasis {
namespace {

bool is_path(std::string_view name) { return !name.empty() && name.front() != '\0'; }

// Binds to a name; a path's directories are made, which is for a private root only.
Result<void> bind_name(int fd, std::string_view name) {
  const auto address = STASIS_TRY(kernel::UnixAddress::of(name));
  if (is_path(name)) STASIS_TRY(kernel::make_parent_directories(name));
  if (::bind(fd, address.get(), address.length) == 0) return {};
  const int code = errno;
  Error error = Error::from_errno(code, fmt::format("bind a socket to {}", kernel::printable_unix_name(name)));
  return code == EADDRINUSE ? std::move(error).with_code(Errc::kExternalPeer).with_help("end who uses that name")
                            : std::move(error);
}

Result<UniqueFd> make_socket(int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd) return Error::from_errno(errno, "make a unix socket");
  return fd;
}

// Makes a call as that one who made it in the program's former life, so that SO_PEERCRED tells the same; where we may
// not, or somebody else has the pid, as ourselves. `call` yields 0 or an errno.
Result<void> call_as_before(const std::optional<UnixCredentialsRecord>& before, const ImageOwner& owner,
                            std::string_view what, int (*call)(void*) noexcept, void* context) {
  const bool allowed = before && (owner.trust == ImageTrust::kCaller || before->uid == owner.uid);
  if (allowed && before->pid > 0) {
    const auto done = kernel::call_as({before->pid, before->uid, before->gid}, call, context);
    if (done && *done == 0) return {};
    if (done) return Error::from_errno(*done, what);
    log::info("unix_socket", "SO_PEERCRED does not tell pid {} any more: {}", before->pid, done.error().message());
  }
  const int failed = call(context);
  return failed == 0 ? Result<void>() : Result<void>(Error::from_errno(failed, what));
}

struct PairCall {
  int type;
  std::array<int, 2> ends;
};

Result<void> make_pair(const UnixLinkRecord& record, const ImageOwner& owner, RestoredUnixLink& link) {
  // Shared with the process that makes the pair.
  void* const shared = ::mmap(nullptr, sizeof(PairCall), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return Error::from_errno(errno, "map memory");
  auto* const pair = new (shared) PairCall{static_cast<int>(record.type) | SOCK_CLOEXEC, {-1, -1}};
  const auto call = [](void* context) noexcept {
    auto* const wanted = static_cast<PairCall*>(context);
    return ::socketpair(AF_UNIX, wanted->type, 0, wanted->ends.data()) == 0 ? 0 : errno;
  };
  const auto made = call_as_before(record.credentials0, owner, "make a pair of unix sockets", call, pair);
  link.ends = {UniqueFd(pair->ends[0]), UniqueFd(pair->ends[1])};
  ::munmap(shared, sizeof(PairCall));
  STASIS_TRY(made);
  return record.name0.empty() ? Result<void>() : bind_name(link.ends[0].get(), record.name0);
}

struct ConnectCall {
  int fd;
  kernel::UnixAddress address;
};

// By a listening socket that lives for the moment.
Result<void> connect_and_accept(const UnixLinkRecord& record, const ImageOwner& owner, RestoredUnixLink& link) {
  const UniqueFd listener = STASIS_TRY(make_socket(static_cast<int>(record.type)));
  STASIS_TRY(bind_name(listener.get(), record.name1));
  int listening = listener.get();
  const auto listen = [](void* fd) noexcept { return ::listen(*static_cast<int*>(fd), 1) == 0 ? 0 : errno; };
  STASIS_TRY(call_as_before(record.credentials1, owner, "listen", listen, &listening));
  link.ends[0] = STASIS_TRY(make_socket(static_cast<int>(record.type)));
  if (!record.name0.empty()) STASIS_TRY(bind_name(link.ends[0].get(), record.name0));
  ConnectCall client{link.ends[0].get(), STASIS_TRY(kernel::UnixAddress::of(record.name1))};
  const auto connect = [](void* context) noexcept {
    const auto* const wanted = static_cast<ConnectCall*>(context);
    return ::connect(wanted->fd, wanted->address.get(), wanted->address.length) == 0 ? 0 : errno;
  };
  STASIS_TRY(call_as_before(record.credentials0, owner, "connect a unix socket", connect, &client));
  link.ends[1] = UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!link.ends[1]) return Error::from_errno(errno, "accept a unix socket");
  return {};
}

Result<void> make_link(const UnixLinkRecord& record, const ImageOwner& owner, RestoredUnixLink& link) {
  return record.name1.empty() ? make_pair(record, owner, link) : connect_and_accept(record, owner, link);
}

}  // namespace

Result<void*> restore_unix_link(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const UnixLinkRecord record = STASIS_TRY(ctx.image.read<UnixLinkRecord>());
  if (record.type == UnixType::kDatagram && !record.name1.empty()) {
    return Error(Errc::kBadImage, "a link between datagram sockets has names");
  }
  auto link = std::make_unique<RestoredUnixLink>();
  link->type = record.type;
  if (is_path(record.name0) || is_path(record.name1)) {
    const auto root = STASIS_TRY(kernel::PrivateRoot::create());
    STASIS_TRY(root.run([&] { return make_link(record, ctx.owner, *link); }));
  } else {
    STASIS_TRY(make_link(record, ctx.owner, *link));
  }
  for (UniqueFd& end : link->ends) end = STASIS_TRY(ctx.park(std::move(end)));
  return to_object(std::move(link));
}

}  // namespace stasis
