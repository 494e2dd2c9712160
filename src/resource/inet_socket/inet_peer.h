// SPDX-License-Identifier: Apache-2.0
// Which socket of the tree is the other end of an inet socket.
#pragma once

#include "resource/open_file/open_file.h"

namespace stasis {

// Of a connected TCP socket: the other end; of a connected UDP socket: the one that sends back to it, or that it sends
// to. Null: none in the tree.
OpenFile* find_inet_peer(const OpenFile& file, const OpenFileTable& tree);
// Does a socket with that name get what is sent to an address?
bool accepts(const kernel::InetAddress& bound, const kernel::InetAddress& to);
// The UDP socket of the tree that sends from an address.
OpenFile* find_udp_sender(const kernel::InetAddress& address, const OpenFileTable& tree);

}  // namespace stasis
