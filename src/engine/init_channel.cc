// SPDX-License-Identifier: Apache-2.0
#include "engine/init_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace stasis {
namespace {

enum class What : std::uint32_t { kRunning = 1, kFailure = 2, kEnd = 3, kGo = 4, kStopped = 5 };

struct Message {
  What what{};
  Errc code{};
  InitChannel::Ready ready;
  InitChannel::Go go{};
  int signal = 0;
  ProgramEnd end;
  char text[2048] = {};
  char help[512] = {};
};
static_assert(std::is_trivially_copyable_v<Message>);

// The other side waits for it: what fails for once is tried again, unless there is no other side any more.
void send(int socket, const Message& message) {
  constexpr int kTries = 5;
  for (int failures = 0; failures < kTries && ::send(socket, &message, sizeof message, MSG_NOSIGNAL) < 0;) {
    if (errno == EPIPE || errno == ECONNRESET) return;
    failures += errno != EINTR;
  }
}

std::optional<Message> receive(int socket, int flags) {
  Message message;
  for (;;) {
    const ssize_t size = ::recv(socket, &message, sizeof message, flags);
    if (size == static_cast<ssize_t>(sizeof message)) return message;
    if (size < 0 && errno == EINTR) continue;
    return std::nullopt;
  }
}

template <std::size_t N>
void copy_text(char (&to)[N], const std::string& from) {
  std::memcpy(to, from.data(), std::min(from.size(), N - 1));
}

}  // namespace

Result<std::pair<InitChannel, InitChannel>> InitChannel::create() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return Error::from_errno(errno, "socketpair");
  std::pair<InitChannel, InitChannel> pair;
  pair.first.socket_ = UniqueFd(ends[0]);
  pair.second.socket_ = UniqueFd(ends[1]);
  return pair;
}

void InitChannel::send_running(const Ready& ready) {
  Message message{.what = What::kRunning};
  message.ready = ready;
  send(socket_.get(), message);
}

void InitChannel::send_failure(const Error& error) {
  Message message{.what = What::kFailure, .code = error.code()};
  copy_text(message.text, error.message());
  copy_text(message.help, error.help());
  send(socket_.get(), message);
}

void InitChannel::send_stopped(int signal) {
  Message message{.what = What::kStopped};
  message.signal = signal;
  send(socket_.get(), message);
}

void InitChannel::send_end(const ProgramEnd& end) {
  Message message{.what = What::kEnd};
  message.end = end;
  send(socket_.get(), message);
}

Result<InitChannel::Go> InitChannel::await_go() {
  const auto message = receive(socket_.get(), 0);
  if (!message || message->what != What::kGo) return Error(Errc::kTargetLost, "the restart command ended");
  return message->go;
}

Result<InitChannel::Ready> InitChannel::await_running(const std::atomic<bool>* cancelled) {
  std::optional<Message> message;
  pollfd wanted{.fd = socket_.get(), .events = POLLIN, .revents = 0};
  constexpr int kTick = 50;  // ms: a signal may come right before the wait
  while (::poll(&wanted, 1, kTick) <= 0) {
    if (cancelled && cancelled->load(std::memory_order_relaxed))
      return Error(Errc::kInterrupted, "interrupted by a signal");
  }
  message = receive(socket_.get(), 0);
  if (!message) return Error(Errc::kTargetLost, "process 1 of the new pid namespace ended unexpectedly");
  if (message->what == What::kFailure) {
    return Error(message->code, std::string(message->text)).with_help(message->help);
  }
  return message->ready;
}

void InitChannel::send_go(Go go) {
  Message message{.what = What::kGo};
  message.go = go;
  send(socket_.get(), message);
}

void InitChannel::announce_by(int signal) {
  ::fcntl(socket_.get(), F_SETOWN, ::getpid());
  ::fcntl(socket_.get(), F_SETSIG, signal);
  ::fcntl(socket_.get(), F_SETFL, O_ASYNC | O_RDWR);
}

std::optional<InitChannel::News> InitChannel::take_news() {
  const auto message = receive(socket_.get(), MSG_DONTWAIT);
  if (message && message->what == What::kEnd) return News{.end = message->end};
  if (message && message->what == What::kStopped) return News{.end = std::nullopt, .stopped_by = message->signal};
  return std::nullopt;
}

}  // namespace stasis
