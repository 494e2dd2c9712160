// SPDX-License-Identifier: Apache-2.0
// Names of unix sockets (man 7 unix): a path, or NUL and an abstract name; here a string without length limits of its
// own: empty is "no name", a first byte NUL is abstract.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <string_view>

#include "stasis/result.h"

namespace stasis::kernel {

struct UnixAddress {
  sockaddr_un address{};
  socklen_t length = 0;

  // A name that is too long, or empty: kBadImage.
  static Result<UnixAddress> of(std::string_view name);
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

// The name in an address of the kernel's. A path ends at its NUL.
std::string unix_name(const sockaddr_un& address, socklen_t length);
// getsockname(2), getpeername(2); empty: none (or no peer).
Result<std::string> unix_name_of(int fd);
Result<std::string> unix_peer_name_of(int fd);
// For people: '@' for the NUL of an abstract name.
std::string printable_unix_name(std::string_view name);

}  // namespace stasis::kernel
