// SPDX-License-Identifier: Apache-2.0
// What keeps an open file from being saved whatever its kind is, and what helps with kinds that nobody saves.
#pragma once

#include <optional>
#include <string_view>

#include "resource/open_file/open_file.h"

namespace stasis {

// How programs do without io_uring.
inline constexpr std::string_view kIoUringHelp =
    "start the program without it: node and other libuv programs with UV_USE_IO_URING=0, MariaDB with "
    "innodb_use_native_aio=0";

// Locks, leases, and signals on I/O (F_SETOWN, F_SETSIG, O_ASYNC).
std::optional<Obstacle> common_obstacle(const OpenFile& file, const FileKind& kind, const OpenFileTable& tree);
// No kind claims the file: what it is, in words, and what the user can do.
Obstacle unknown_kind(const OpenFile& file);

}  // namespace stasis
