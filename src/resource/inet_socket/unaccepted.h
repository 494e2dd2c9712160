// SPDX-License-Identifier: Apache-2.0
// TCP connections inside the tree whose far end nobody has accepted yet: it lies in the queue of a listening socket,
// without a descriptor. Without bytes in it, it is as good as new, and a restart makes it again by connect(2), for
// which no right is needed. The kernel lets nobody read bytes there, short of accepting it in the program's place.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernel/waiting_connections.h"
#include "resource/open_file/open_file.h"

namespace stasis {

// The far end of a connection, if it waits at a listening socket of the tree.
std::optional<kernel::WaitingConnection> find_unaccepted(const OpenFile& client, const OpenFileTable& tree);
// Why it can't be made again; empty: it can.
std::string why_not_again(const OpenFile& client, const kernel::WaitingConnection& far_end);
// How many connections of the tree to the same address are older (as far as the kernel tells).
std::uint32_t turn_of(const OpenFile& client, const OpenFileTable& tree);
// How many of the connections that wait at a listening socket (`waiting` in all) do not come from the tree.
std::uint32_t waiting_from_outside(const OpenFile& listener, std::uint32_t waiting, const OpenFileTable& tree);

}  // namespace stasis
