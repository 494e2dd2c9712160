// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/page_line.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/file.h"

namespace stasis {
namespace {

// Plain bytes: both ends are the same program.
struct Header {
  PageWord word{};
  std::int32_t object = 0;
  std::uint32_t areas = 0;
};

struct Failure {
  Errc code{};
  char text[2048] = {};
  char help[512] = {};
};

union Control {
  cmsghdr header;
  char space[CMSG_SPACE(sizeof(int))];
};

Error lost() { return Error(Errc::kTargetLost, "the process that was to fill the program's memory has ended"); }

template <std::size_t N>
void copy_text(char (&to)[N], const std::string& from) {
  std::memcpy(to, from.data(), std::min(from.size(), N - 1));
}

Result<void> send_all(int socket, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = ::send(socket, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return lost();
    at += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return {};
}

}  // namespace

Result<std::pair<PageLine, PageLine>> PageLine::create_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return Error::from_errno(errno, "socketpair");
  std::pair<PageLine, PageLine> pair;
  pair.first.socket_ = UniqueFd(ends[0]);
  pair.second.socket_ = UniqueFd(ends[1]);
  return pair;
}

Result<void> PageLine::send(const PageMessage& message) const {
  Header header{.word = message.word,
                .object = message.object.value(),
                .areas = static_cast<std::uint32_t>(message.areas.size())};
  iovec part{.iov_base = &header, .iov_len = sizeof header};
  Control control{};
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  if (message.descriptor) {
    packet.msg_control = &control;
    packet.msg_controllen = sizeof control;
    control.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    const int number = message.descriptor.get();
    std::memcpy(CMSG_DATA(&control.header), &number, sizeof number);
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket_.get(), &packet, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent != static_cast<ssize_t>(sizeof header)) return lost();
  return send_all(socket_.get(), message.areas.data(), message.areas.size() * sizeof(PageRun));
}

Result<PageMessage> PageLine::receive() const {
  Header header;
  iovec part{.iov_base = &header, .iov_len = sizeof header};
  Control control{};
  msghdr packet{};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  packet.msg_control = &control;
  packet.msg_controllen = sizeof control;
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket_.get(), &packet, MSG_CMSG_CLOEXEC | MSG_WAITALL);
  } while (got < 0 && errno == EINTR);
  if (got != static_cast<ssize_t>(sizeof header)) return lost();
  PageMessage message{.word = header.word, .descriptor = {}, .object = ObjRef(header.object), .areas = {}};
  if (const cmsghdr* const rights = CMSG_FIRSTHDR(&packet)) {
    int number = -1;
    std::memcpy(&number, CMSG_DATA(rights), sizeof number);
    message.descriptor = UniqueFd(number);
  }
  message.areas.resize(header.areas);
  const auto bytes = std::as_writable_bytes(std::span(message.areas));
  if (STASIS_TRY(read_full(socket_.get(), bytes)) != bytes.size()) return lost();
  return message;
}

void PageLine::send_failure(const Error& error) const {
  Failure failure{.code = error.code()};
  copy_text(failure.text, error.message());
  copy_text(failure.help, error.help());
  static_cast<void>(send_all(socket_.get(), &failure, sizeof failure));
}

std::optional<Error> PageLine::failure() const {
  Failure failure;
  const ssize_t got = ::recv(socket_.get(), &failure, sizeof failure, MSG_DONTWAIT);
  if (got != static_cast<ssize_t>(sizeof failure)) return std::nullopt;
  return Error(failure.code, std::string(failure.text)).with_help(failure.help);
}

}  // namespace stasis
