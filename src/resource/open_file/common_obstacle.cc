// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/common_obstacle.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "resource/locks/file_signals.h"

namespace stasis {
namespace {

std::string_view lock_name(kernel::LockKind kind) {
  switch (kind) {
    case kernel::LockKind::kPosix:
      return "a POSIX record lock (fcntl)";
    case kernel::LockKind::kOfd:
      return "an open-file-description lock (fcntl)";
    case kernel::LockKind::kFlock:
      return "a lock (flock)";
    default:
      return "a lock of an unknown kind";
  }
}

// Kinds by what /proc says of their descriptors.
struct LinkHelp {
  std::string_view link;
  std::string_view why;
  std::string_view help;
};
constexpr std::array kLinkHelp = {
    LinkHelp{"anon_inode:[io_uring]", "an io_uring can't be saved", kIoUringHelp},
    LinkHelp{"anon_inode:[userfaultfd]", "a userfaultfd can't be saved", ""},
    LinkHelp{"anon_inode:[perf_event]", "a performance counter can't be saved", "close the profiler first"},
    LinkHelp{"anon_inode:bpf-", "BPF objects can't be saved", ""},
    LinkHelp{"anon_inode:kvm-", "virtual machines can't be saved", "save the machine by its own monitor"},
};

std::string_view socket_name(const OpenFile& file) {
  int domain = 0, type = 0;
  socklen_t length = sizeof domain;
  if (!file.held || ::getsockopt(file.held.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) return "a socket";
  length = sizeof type;
  ::getsockopt(file.held.get(), SOL_SOCKET, SO_TYPE, &type, &length);
  if (type == SOCK_RAW && (domain == AF_INET || domain == AF_INET6)) return "a raw socket";
  if (domain == AF_NETLINK) return "a netlink socket";
  if (domain == AF_VSOCK) return "a vsock socket";
  return "a socket of this family";
}

std::string_view type_name(const OpenFile& file) {
  const mode_t mode = file.stat.st_mode;
  if (S_ISSOCK(mode)) return socket_name(file);
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISFIFO(mode)) return "a pipe";
  return "a descriptor of this kind";
}

}  // namespace

std::optional<Obstacle> common_obstacle(const OpenFile& file, const FileKind& kind, const OpenFileTable& tree) {
  const auto lock = std::ranges::find_if(file.info.locks, [&](const kernel::FileLock& held) {
    if (held.kind == kernel::LockKind::kLease) return false;  // look_at_signals() judges it
    const bool known = held.kind == kernel::LockKind::kFlock || held.kind == kernel::LockKind::kOfd;
    return !known || !kind.saves_locks;
  });
  if (lock != file.info.locks.end()) {
    return file.obstacle(Errc::kUnsupportedObject,
                         fmt::format("{} is held on it, which can't be saved", lock_name(lock->kind)),
                         "let the program unlock it first");
  }
  if (const auto signals = look_at_signals(file, tree); !signals) {
    return file.obstacle(signals.error().code(), signals.error().message());
  }
  return std::nullopt;
}

Obstacle unknown_kind(const OpenFile& file) {
  for (const LinkHelp& row : kLinkHelp) {
    if (file.link.starts_with(row.link)) {
      return file.obstacle(Errc::kUnsupportedObject, std::string(row.why), std::string(row.help));
    }
  }
  std::string why = fmt::format("{} can't be saved", type_name(file));
  if (S_ISCHR(file.stat.st_mode) || S_ISBLK(file.stat.st_mode)) {
    why += fmt::format(" (device {}:{})", major(file.stat.st_rdev), minor(file.stat.st_rdev));
  }
  return file.obstacle(Errc::kUnsupportedObject, std::move(why), "close it, or end what uses it, first");
}

}  // namespace stasis
