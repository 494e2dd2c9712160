// SPDX-License-Identifier: Apache-2.0
#include "engine/run_socket.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <type_traits>

namespace stasis {
namespace {

static_assert(std::is_trivially_copyable_v<RunMessage>);

template <std::size_t N>
void copy_text(char (&to)[N], const std::string& from) {
  std::memcpy(to, from.data(), std::min(from.size(), N - 1));
}

}  // namespace

void RunMessage::set_parent(const std::string& path) {
  if (path.size() < sizeof text) copy_text(text, path);
}

Error RunMessage::error() const { return Error(code, std::string(text)).with_help(help); }

RunMessage RunMessage::of(RunWord word, const Error& error) {
  RunMessage message{.word = word, .code = error.code()};
  copy_text(message.text, error.message());
  copy_text(message.help, error.help());
  return message;
}

Result<std::pair<RunSocket, RunSocket>> RunSocket::create_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return Error::from_errno(errno, "socketpair");
  std::pair<RunSocket, RunSocket> pair;
  pair.first.socket_ = UniqueFd(ends[0]);
  pair.second.socket_ = UniqueFd(ends[1]);
  return pair;
}

Result<void> RunSocket::send(const RunMessage& message) const {
  while (::send(socket_.get(), &message, sizeof message, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return Error(Errc::kTargetLost, "the other process of this run has ended");
  }
  return {};
}

std::optional<RunMessage> RunSocket::receive() const {
  RunMessage message;
  for (;;) {
    const ssize_t size = ::recv(socket_.get(), &message, sizeof message, 0);
    if (size == static_cast<ssize_t>(sizeof message)) return message;
    if (size >= 0 || errno != EINTR) return std::nullopt;
  }
}

}  // namespace stasis
