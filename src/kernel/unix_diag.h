// SPDX-License-Identifier: Apache-2.0
// What the kernel tells about a unix socket by its inode number (man 7 sock_diag, net/unix/diag.c).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

// A file as unix_diag names it.
struct UnixSocketFile {
  std::uint32_t inode = 0;
  std::uint32_t device = 0;
  // Of a path's lstat(2).
  static UnixSocketFile of(std::uint64_t inode, std::uint64_t device);
  friend bool operator==(const UnixSocketFile&, const UnixSocketFile&) = default;
};

struct UnixSocketState {
  int type = 0;                           // SOCK_STREAM, ...
  int state = 0;                          // TCP_ESTABLISHED (1), TCP_CLOSE (7), TCP_LISTEN (10)
  std::optional<std::uint64_t> peer;      // inode of the socket it is connected to
  std::string name;                       // as bound: a path, or NUL and an abstract name; empty: unbound
  std::vector<std::uint64_t> unaccepted;  // of a listening socket: the far ends' inodes of connections that wait
  std::uint32_t receive_queue = 0;        // bytes to be read; of a listening socket: connections that wait
  std::uint32_t send_queue = 0;           // bytes the peer has not read yet; of a listening socket: the backlog
  std::uint8_t shutdown = 0;              // 1: no more reads, 2: no more writes
  std::optional<UnixSocketFile> file;     // of a path name: the file that bind(2) made
};

// nullopt: no unix socket of this network namespace has that inode. Without CONFIG_UNIX_DIAG: kKernelFeature.
Result<std::optional<UnixSocketState>> unix_socket_state(std::uint64_t inode);

// Is a living socket of this network namespace bound to that file?
Result<bool> is_unix_socket_file_in_use(const UnixSocketFile& file);

}  // namespace stasis::kernel
