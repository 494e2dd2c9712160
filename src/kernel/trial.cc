// SPDX-License-Identifier: Apache-2.0
#include "kernel/trial.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "base/file.h"
#include "base/unique_fd.h"

namespace stasis::kernel {
namespace {

// What the child sends: nothing for success, else "code\0message\0help".
void send_error(int fd, const Error& error) {
  std::string text = std::to_string(static_cast<unsigned>(error.code()));
  text.push_back('\0');
  text.append(error.message()).push_back('\0');
  text.append(error.help());
  (void)write_full(fd, std::as_bytes(std::span(text)));
}

Error parse_error(const std::string& text) {
  const auto first = text.find('\0');
  const auto second = text.find('\0', first == std::string::npos ? first : first + 1);
  if (second == std::string::npos) return Error(Errc::kInternal, "a trial process broke off");
  std::uint16_t code = 0;
  std::from_chars(text.data(), text.data() + first, code);
  return Error(static_cast<Errc>(code), text.substr(first + 1, second - first - 1)).with_help(text.substr(second + 1));
}

}  // namespace

Result<void> try_in_child(const std::function<Result<void>()>& action) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error::from_errno(errno, "pipe");
  UniqueFd from_child(ends[0]), to_parent(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return Error::from_errno(errno, "fork");
  if (pid == 0) {
    from_child.reset();
    const Result<void> result = action();
    if (!result) send_error(to_parent.get(), result.error());
    ::_exit(0);
  }
  to_parent.reset();
  const auto text = read_fd(from_child.get(), 1 << 16);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return Error::from_errno(errno, "wait for a trial process");
  }
  if (!text) return Error(text.error());
  if (!text->empty()) return parse_error(*text);
  if (WIFSIGNALED(status)) {
    return Error(Errc::kInternal, fmt::format("a trial process died of signal {}", WTERMSIG(status)));
  }
  return {};
}

}  // namespace stasis::kernel
