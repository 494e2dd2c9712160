// SPDX-License-Identifier: Apache-2.0
#include "kernel/unix_name.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace stasis::kernel {
namespace {

constexpr std::size_t kPathOffset = offsetof(sockaddr_un, sun_path);

}  // namespace

Result<UnixAddress> UnixAddress::of(std::string_view name) {
  UnixAddress made;
  const bool abstract = !name.empty() && name.front() == '\0';
  const std::size_t room = sizeof made.address.sun_path;
  if (name.empty() || name.size() > room || (!abstract && name.find('\0') != name.npos)) {
    return Error(Errc::kBadImage, "the name of a unix socket is malformed");
  }
  made.address.sun_family = AF_UNIX;
  std::memcpy(made.address.sun_path, name.data(), name.size());
  // A path of full length goes without its NUL.
  const std::size_t terminator = !abstract && name.size() < room ? 1 : 0;
  made.length = static_cast<socklen_t>(kPathOffset + name.size() + terminator);
  return made;
}

std::string unix_name(const sockaddr_un& address, socklen_t length) {
  if (length <= kPathOffset) return {};
  const std::size_t bytes = std::min<std::size_t>(length - kPathOffset, sizeof address.sun_path);
  std::string name(address.sun_path, bytes);
  if (name.front() != '\0') name.resize(std::min(name.find('\0'), name.size()));
  return name;
}

Result<std::string> unix_name_of(int fd) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return Error::from_errno(errno, "ask for the name of a unix socket");
  }
  return unix_name(address, length);
}

Result<std::string> unix_peer_name_of(int fd) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) return unix_name(address, length);
  if (errno == ENOTCONN) return std::string();
  return Error::from_errno(errno, "ask for the peer of a unix socket");
}

std::string printable_unix_name(std::string_view name) {
  std::string text(name);
  std::ranges::replace(text, '\0', '@');
  return text;
}

}  // namespace stasis::kernel
