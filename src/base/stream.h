// SPDX-License-Identifier: Apache-2.0
// Streams (pipes, FIFOs, sockets), whose other end may stall for ever: no wait is longer than a moment without asking.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "stasis/keep_going.h"
#include "stasis/result.h"

namespace stasis {

// open(2) for reading, or the standard input itself for /dev/stdin; of a FIFO, returns once a writer has come and has
// written or gone.
Result<UniqueFd> open_input(const std::string& path, const KeepGoing& keep_going);
// Reads until `buffer` is full or the end; returns the bytes read. Works with blocking and non-blocking descriptors.
Result<std::size_t> read_stream(int fd, std::span<std::byte> buffer, const KeepGoing& keep_going);
// Writes everything or fails; what is no stream is simply written to. Works with blocking and non-blocking descriptors.
Result<void> write_stream(int fd, std::span<const std::byte> bytes, const KeepGoing& keep_going);

}  // namespace stasis
