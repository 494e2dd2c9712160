// SPDX-License-Identifier: Apache-2.0
#include "kernel/unix_diag.h"

#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <span>
#include <string_view>

#include "kernel/sock_diag.h"

namespace stasis::kernel {
namespace {

struct Request {
  nlmsghdr header{};
  unix_diag_req body{};
};

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

constexpr std::string_view kSubject = "a unix socket";

// One message of an answer. Nothing: no such socket.
Result<std::optional<UnixSocketState>> parse(const nlmsghdr& header, std::span<const std::byte> message) {
  if (header.nlmsg_type == NLMSG_ERROR) {
    const int error = STASIS_TRY(diag_error(message, kSubject));
    if (error == ENOENT || error == ESTALE) return std::optional<UnixSocketState>();
    return Error::from_errno(error, "ask about a unix socket");
  }
  if (message.size() < sizeof(unix_diag_msg)) return malformed_answer(kSubject);
  const auto body = copy_out<unix_diag_msg>(message);
  UnixSocketState state;
  state.type = body.udiag_type;
  state.state = body.udiag_state;
  STASIS_TRY(
      for_each_attribute(message.subspan(NLMSG_ALIGN(sizeof body)), kSubject,
                         [&](int type, std::span<const std::byte> payload) { take_attribute(type, payload, state); }));
  return std::optional(std::move(state));
}

Result<void> ask(const Request& request, const TakeDiagMessage& take) {
  return ask_sock_diag(std::as_bytes(std::span(&request, 1)), kSubject, take);
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
  std::optional<UnixSocketState> state;
  const auto take = [&](const nlmsghdr& header, std::span<const std::byte> message) -> Result<bool> {
    state = STASIS_TRY(parse(header, message));
    return false;
  };
  STASIS_TRY(ask(request, take));
  return state;
}

Result<bool> is_unix_socket_file_in_use(const UnixSocketFile& file) {
  Request request = request_for(UDIAG_SHOW_VFS);
  request.header.nlmsg_flags |= NLM_F_DUMP;
  bool used = false;
  const auto take = [&](const nlmsghdr& header, std::span<const std::byte> message) -> Result<bool> {
    const auto state = STASIS_TRY(parse(header, message));
    used = used || (state && state->file == file);
    return true;
  };
  STASIS_TRY(ask(request, take));
  return used;
}

}  // namespace stasis::kernel
