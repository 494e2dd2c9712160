// SPDX-License-Identifier: Apache-2.0
#include "kernel/unix_diag.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/unique_fd.h"

namespace stasis::kernel {
namespace {

struct Request {
  nlmsghdr header{};
  unix_diag_req body{};
};

template <class T>
T copy_out(std::span<const std::byte> bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof value, bytes.size()));
  return value;
}

void take_attribute(int type, std::span<const std::byte> payload, UnixSocketState& state) {
  switch (type) {
    case UNIX_DIAG_NAME:
      state.name.assign(reinterpret_cast<const char*>(payload.data()), payload.size());
      break;
    case UNIX_DIAG_PEER:
      state.peer = copy_out<std::uint32_t>(payload);
      break;
    case UNIX_DIAG_ICONS:
      for (; payload.size() >= 4; payload = payload.subspan(4)) {
        state.unaccepted.push_back(copy_out<std::uint32_t>(payload));
      }
      break;
    case UNIX_DIAG_RQLEN: {
      const auto lengths = copy_out<unix_diag_rqlen>(payload);
      state.receive_queue = lengths.udiag_rqueue;
      state.send_queue = lengths.udiag_wqueue;
      break;
    }
    case UNIX_DIAG_VFS: {
      const auto file = copy_out<unix_diag_vfs>(payload);
      state.file = UnixSocketFile{file.udiag_vfs_ino, file.udiag_vfs_dev};
      break;
    }
    case UNIX_DIAG_SHUTDOWN:
      state.shutdown = copy_out<std::uint8_t>(payload);
      break;
    default:
      break;
  }
}

Error malformed() { return Error(Errc::kSystem, "malformed answer about a unix socket from the kernel"); }

// One message of an answer. Nothing: no such socket.
Result<std::optional<UnixSocketState>> parse(const nlmsghdr& header, std::span<const std::byte> message) {
  if (header.nlmsg_type == NLMSG_ERROR) {
    if (message.size() < sizeof(nlmsgerr)) return malformed();
    const int error = -copy_out<nlmsgerr>(message).error;
    if (error == ENOENT || error == ESTALE) return std::optional<UnixSocketState>();
    return Error::from_errno(error, "ask about a unix socket");
  }
  if (message.size() < sizeof(unix_diag_msg)) return malformed();
  const auto body = copy_out<unix_diag_msg>(message);
  UnixSocketState state;
  state.type = body.udiag_type;
  state.state = body.udiag_state;
  message = message.subspan(NLMSG_ALIGN(sizeof body));
  while (message.size() >= sizeof(rtattr)) {
    const auto attribute = copy_out<rtattr>(message);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > message.size()) return malformed();
    take_attribute(attribute.rta_type, message.first(attribute.rta_len).subspan(sizeof attribute), state);
    message = message.subspan(std::min<std::size_t>(RTA_ALIGN(attribute.rta_len), message.size()));
  }
  return std::optional(std::move(state));
}

Result<UniqueFd> ask(const Request& request) {
  UniqueFd diag(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!diag) {
    return Error::from_errno(errno, "open a socket-diagnosis socket").with_code(Errc::kKernelFeature);
  }
  if (::send(diag.get(), &request, sizeof request, 0) != static_cast<ssize_t>(sizeof request)) {
    return Error::from_errno(errno, "ask about a unix socket").with_code(Errc::kKernelFeature);
  }
  return diag;
}

// `take(header, payload)` for every message of one answer; it says whether more are wanted.
template <class Take>
Result<bool> receive(int diag, Take take) {
  alignas(nlmsghdr) std::array<std::byte, 32768> answer;
  const ssize_t got = ::recv(diag, answer.data(), answer.size(), 0);
  if (got < 0) return Error::from_errno(errno, "ask about a unix socket");
  auto rest = std::span<const std::byte>(answer).first(static_cast<std::size_t>(got));
  if (rest.size() < sizeof(nlmsghdr)) return malformed();
  while (rest.size() >= sizeof(nlmsghdr)) {
    const auto header = copy_out<nlmsghdr>(rest);
    if (header.nlmsg_len > rest.size() || header.nlmsg_len < sizeof header) return malformed();
    const bool more = STASIS_TRY(take(header, rest.first(header.nlmsg_len).subspan(NLMSG_HDRLEN)));
    if (!more) return false;
    rest = rest.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
  }
  return true;
}

Request request_for(std::uint32_t show) {
  Request request;
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0u;
  request.body.udiag_show = show;
  return request;
}

}  // namespace

UnixSocketFile UnixSocketFile::of(std::uint64_t inode, std::uint64_t device) {
  // As the kernel prints a device of its own (huge_encode is not used here): 12 bits major, 20 bits minor.
  return {static_cast<std::uint32_t>(inode), (gnu_dev_major(device) << 20) | gnu_dev_minor(device)};
}

Result<std::optional<UnixSocketState>> unix_socket_state(std::uint64_t inode) {
  Request request =
      request_for(UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN);
  request.body.udiag_ino = static_cast<std::uint32_t>(inode);
  request.body.udiag_cookie[0] = ~0u;
  request.body.udiag_cookie[1] = ~0u;
  const UniqueFd diag = STASIS_TRY(ask(request));
  std::optional<UnixSocketState> state;
  const auto take = [&](const nlmsghdr& header, std::span<const std::byte> message) -> Result<bool> {
    state = STASIS_TRY(parse(header, message));
    return false;
  };
  STASIS_TRY(receive(diag.get(), take));
  return state;
}

Result<bool> is_unix_socket_file_in_use(const UnixSocketFile& file) {
  Request request = request_for(UDIAG_SHOW_VFS);
  request.header.nlmsg_flags |= NLM_F_DUMP;
  const UniqueFd diag = STASIS_TRY(ask(request));
  bool used = false;
  const auto take = [&](const nlmsghdr& header, std::span<const std::byte> message) -> Result<bool> {
    if (header.nlmsg_type == NLMSG_DONE) return false;
    const auto state = STASIS_TRY(parse(header, message));
    used = used || (state && state->file == file);
    return true;
  };
  for (bool more = true; more;) more = STASIS_TRY(receive(diag.get(), take));
  return used;
}

}  // namespace stasis::kernel
